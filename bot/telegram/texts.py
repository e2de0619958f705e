"""What the bot itself says, in English and Chinese."""

import msgspec


class Texts(msgspec.Struct, frozen=True):
    """One language. `{id}` is the user's number, `{reason}` an error."""

    hello: str
    help: str
    demo: str
    new: str
    stopped: str
    nothing_to_stop: str
    unknown_command: str
    text_only: str
    stranger: str
    thinking: str
    stopped_mark: str
    stopped_empty: str
    too_long_mark: str
    no_answer: str
    failed: str
    operator_help: str
    admins_only: str
    not_yours: str
    dead_button: str
    noted: str
    no_cost: str
    menu: dict[str, str]
    operator_menu: dict[str, str]


ENGLISH = Texts(
    hello="Hello! Write me something and I answer. /help shows what else I can do.",
    help="/new – begin a new conversation\n/stop – stop the answer\n/help – this text\n\n"
    "I remember what we said until /new. I can read text only.",
    demo="I am running the small demo model, which only shows that everything works. "
    "The operator gets a real one with: dswbot model pull qwen3-4b",
    new="A new conversation: I have forgotten the last one.",
    stopped="Stopped.",
    nothing_to_stop="There is nothing to stop.",
    unknown_command="I don't know that command. /help shows those that I know.",
    text_only="I can read text only.",
    stranger="I don't know you yet, so I may not answer. Your number is {id}; the operator lets you in with:\n"
    "dswbot telegram allow {id}",
    thinking="Thinking…",
    stopped_mark="(stopped)",
    stopped_empty="Stopped.",
    too_long_mark="(The answer reached its greatest length here.)",
    no_answer="The model gave no answer. Ask again, or in other words.",
    failed="I could not answer that: {reason}",
    operator_help="For you as an operator:\n/status – what the GPU does and what happens next\n"
    "/cost – what it costs, with a chart\n/hold 2h – keep it running (or /hold 30m, /hold 18:00)\n/release – end the hold",
    admins_only="Only an operator can do that.",
    not_yours="This message is not yours.",
    dead_button="This button does nothing any more.",
    noted="That is noted already.",
    no_cost="What the GPU cost can't be told now; the log says why.",
    menu={"new": "Begin a new conversation", "stop": "Stop the answer", "help": "What I can do"},
    operator_menu={
        "status": "What the GPU does",
        "cost": "What it costs",
        "hold": "Keep it running",
        "release": "End the hold",
    },
)

CHINESE = Texts(
    hello="你好！给我发条消息，我就会回答。发送 /help 查看更多功能。",
    help="/new – 开始新对话\n/stop – 停止回答\n/help – 显示本说明\n\n在 /new 之前，我会记住我们的对话。目前只能阅读文字。",
    demo="当前运行的是演示用小模型，只用来验证一切正常（不会中文）。管理员可运行以下命令获取正式模型：dswbot model pull qwen3-4b",
    new="新对话已开始，之前的内容我已忘记。",
    stopped="已停止。",
    nothing_to_stop="没有正在进行的回答。",
    unknown_command="我不认识这个命令。发送 /help 查看可用命令。",
    text_only="我目前只能阅读文字消息。",
    stranger="我还不认识你，所以不能回答。你的编号是 {id}，管理员可用以下命令允许你使用：\ndswbot telegram allow {id}",
    thinking="思考中…",
    stopped_mark="（已停止）",
    stopped_empty="已停止。",
    too_long_mark="（回答已达到最大长度。）",
    no_answer="模型没有给出回答，请再问一次，或换个说法。",
    failed="这条消息无法回答：{reason}",
    operator_help="管理员命令：\n/status – GPU 的状态和接下来会发生什么\n/cost – 费用和图表\n"
    "/hold 2h – 保持运行（也可 /hold 30m、/hold 18:00）\n/release – 取消保持",
    admins_only="只有管理员可以这样做。",
    not_yours="这条消息不是发给你的。",
    dead_button="这个按钮已失效。",
    noted="已经记下了。",
    no_cost="暂时无法给出 GPU 的费用，原因见日志。",
    menu={"new": "开始新对话", "stop": "停止回答", "help": "我能做什么"},
    operator_menu={"status": "GPU 的状态", "cost": "费用", "hold": "保持运行", "release": "取消保持"},
)


def texts_for(language: str) -> Texts:
    """The texts of a language code, as Telegram or the configuration gives it."""
    return CHINESE if language.lower().startswith("zh") else ENGLISH
