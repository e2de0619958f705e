"""What notices say in Chinese."""

from bot.money.notice import Kind
from bot.money.situation import Reminder, Trouble
from bot.money.wording_table import Line, Words

YOURSELF = "自行停止（DSW：在 PAI 控制台）"

UNPRICED = "{unpriced}想看到费用，请设置 budget.yuan_per_hour 或 budget.compute_hours_per_hour。"
COST = (
    "本次空闲已花费 {cost}；继续运行每小时 {hourly}。",
    "本次空闲已花费 {cost}。",
    "运行一小时花费 {hourly}。",
    UNPRICED,
)
HOURLY = ("运行一小时花费 {hourly}。", UNPRICED)
LEFT = (
    "还剩 {left}，一直运行可用到 {until}。",
    "还剩 {left}。",
    "一直运行，余额可用到 {until}。",
)
REMAINS = ("还剩 {left}。",)
WHY = ("原因：{reason}。",)
RUNS_ON = ("不会自动停止。",)
STOP_OR_HOLD = (
    "{stoppable}用完了就请现在停止；想保留且不再提醒，请选择保持运行。",
    "{fixed}用完了请" + YOURSELF + "；否则继续使用即可。",
)
KEEP = ("想保留，请继续使用或选择保持运行；否则无需任何操作。",)
SPEND_LESS = (
    "{stoppable}用完了就请现在停止，或提高预算。",
    "{fixed}用完了请" + YOURSELF + "，或提高预算。",
)
ALLOW = ("想让它真正停止，请关闭 dsw.dry_run 并开启 dsw.allow_stop。",)

LINES: dict[str, tuple[Line, ...]] = {
    Reminder.IDLE: (
        ("{gpu} 从 {since} 起已空闲 {idle}。", "{gpu} 处于空闲。"), COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.STILL_IDLE: (
        ("{gpu} 仍然空闲：从 {since} 起已有 {idle}。", "{gpu} 仍然空闲。"), COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.LONG_IDLE: (
        ("是不是忘了？{gpu} 从 {since} 起已空闲 {idle}。", "是不是忘了？{gpu} 已空闲数小时。"),
        COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.WARNED: (
        ("{gpu} 将于 {deadline} 停止，还有 {within}。", "{gpu} 即将停止。"),
        ("它从 {since} 起已空闲 {idle}。",), COST, LEFT, KEEP,
    ),
    Reminder.LAST_CALL: (
        ("最后提醒：{gpu} 将于 {deadline} 停止，还有 {within}。", "最后提醒：{gpu} 马上就要停止。"),
        ("它从 {since} 起已空闲 {idle}。",), COST, LEFT, KEEP,
    ),
    Reminder.STOCK_OUT: (
        ("{gpu} 从 {since} 起已空闲 {idle}。", "{gpu} 处于空闲。"),
        ("这种 GPU 目前无货：停止后可能无法再次启动。",), COST, LEFT,
        ("因此在有货之前不会自动停止。",),
        ("{stoppable}近期不用就请现在停止；想保留且不再提醒，请选择保持运行。",
         "{fixed}近期不用请" + YOURSELF + "；否则继续使用即可。"),
    ),
    Reminder.DRY_RUN: (
        ("试运行：{gpu} 空闲 {idle}，本应于 {at} 停止。", "试运行：{gpu} 本应于 {at} 停止。"),
        COST, LEFT, ("它继续运行；再次使用时会告知因此多花了多少。",), ALLOW,
    ),
    Reminder.DRY_RUN_SAVED: (
        ("试运行：若停止 {gpu}，可节省约 {saved}，即少运行 {saved_time}。",
         "试运行：若停止 {gpu}，可节省约 {saved}。",
         "试运行：若停止 {gpu}，可少运行 {saved_time}。",
         "试运行：{gpu} 的空闲已结束。"),
        ("它空闲了 {idle}，从 {since} 到 {at}。",), (UNPRICED,), LEFT, ALLOW,
    ),
    Trouble.UNKNOWN: (
        ("长时间无法判断 {gpu} 是否在使用，因此让它继续运行。",), WHY, HOURLY, LEFT,
        ("{stoppable}请排除故障；用完了就请现在停止。", "{fixed}请排除故障；用完了请" + YOURSELF + "。"),
    ),
    Trouble.STOP_FAILED: (
        ("{gpu} 未能停止，仍在计费；系统会不断重试。",), WHY, COST, LEFT,
        ("为保险起见，请" + YOURSELF + "。",),
    ),
    Trouble.STOP_REFUSED: (
        ("有人要求停止 {gpu}，但没有停止。",), WHY, HOURLY, LEFT,
        ("请等原因消除后再试，或" + YOURSELF + "。",),
    ),
    Trouble.SAVE_FAILED: (
        ("{gpu} 的镜像保存失败，因此没有停止。",), WHY, COST, LEFT, RUNS_ON,
        ("{stoppable}请手动保存；不需要其中的改动，就请现在停止。",
         "{fixed}请手动保存；不需要其中的改动，请" + YOURSELF + "。"),
    ),
    Trouble.WAKE_FAILED: (
        ("{gpu} 未能启动，系统会不断重试。消息在等待。",), WHY, REMAINS,
        ("也可以自行启动（DSW：在 PAI 控制台）。",),
    ),
    Trouble.WAKE_BLOCKED: (
        ("{gpu} 没有启动。消息在等待。",), WHY, REMAINS,
        ("请检查预算或账户，或自行启动（DSW：在 PAI 控制台）。",),
    ),
    Trouble.NOT_READY: (
        ("{gpu} 在运行，但模型没有加载。消息在等待。",), WHY, HOURLY, LEFT,
        ("日志里有原因；实在不行，请" + YOURSELF + "。",),
    ),
    Kind.STOPPED: (
        ("{gpu} 空闲 {idle}后，已于 {at} 停止。", "{gpu} 已于 {at} 停止。"),
        ("与再运行 {saved_time}相比，节省约 {saved}。", "节省约 {saved}。", "因此少运行 {saved_time}。",
         "不再每小时花费 {hourly}。"),
        ("此前共运行 {up}，其中空闲花费 {cost}。", "空闲花费 {cost}。", "此前共运行 {up}。"),
        REMAINS, (UNPRICED,), ("没有删除任何东西，可以再次启动。",),
    ),
    Kind.WOKEN: (("{gpu} 已于 {at} 启动。",), WHY, HOURLY, LEFT),
    Kind.FOREIGN: (
        ("{gpu} 被他人停止或启动，发现于 {at}。",), WHY, HOURLY, REMAINS,
        ("如果不是您本人，请查看谁有权访问该实例。",),
    ),
    Kind.BUDGET: (
        ("{period} 的{budget}已用 {share}：{cost}。", "{period} 的{budget}已用 {share}。",
         "{budget}已用 {share}。", "预算已用 {share}。", "预算即将用完。"),
        HOURLY, LEFT, SPEND_LESS,
    ),
    Kind.FORECAST: (
        ("照此速度，{period} 的{budget}将于 {ends} 用完。", "照此速度，{budget}将于 {ends} 用完。",
         "照此速度，预算将提前用完。"),
        HOURLY, REMAINS, SPEND_LESS,
    ),
    Kind.FIRST_PAID: (
        ("免费计算时已用完：从 {at} 起 {gpu} 开始收费。",), HOURLY, LEFT, STOP_OR_HOLD,
    ),
    Kind.TRIAL_END: (
        ("免费试用将于 {deadline} 结束，还有 {within}；此后 {gpu} 开始收费。",
         "免费试用即将结束；此后 {gpu} 开始收费。"),
        HOURLY, REMAINS, ("请在此之前用掉剩余额度，用完后停止实例。",),
    ),
    Kind.SUGGESTION: (
        ("若设 idle.after = {setting}，过去几周可节省约 {saved}，即少运行 {saved_time}。",
         "若设 idle.after = {setting}，过去几周可少运行 {saved_time}。",
         "换一个 idle.after，过去几周可以花费更少。"),
        WHY, ("如需采用，请修改 idle.after。",),
    ),
}  # fmt: skip

TITLES: dict[str, Line] = {
    Reminder.IDLE: ("{name} 已空闲 {idle}", "{name} 空闲"),
    Reminder.STILL_IDLE: ("{name} 仍然空闲，已 {idle}", "{name} 仍然空闲"),
    Reminder.LONG_IDLE: ("是不是忘了？{name} 已空闲 {idle}", "是不是忘了？{name} 已空闲数小时"),
    Reminder.WARNED: ("{name} 将在 {within}后停止", "{name} 即将停止"),
    Reminder.LAST_CALL: ("最后提醒：{name} 将在 {within}后停止", "最后提醒：{name} 马上停止"),
    Reminder.STOCK_OUT: ("{name} 空闲，且目前无货",),
    Reminder.DRY_RUN: ("试运行：{name} 本应停止",),
    Reminder.DRY_RUN_SAVED: ("试运行：可节省 {saved}", "试运行：停止可节省多少"),
    Trouble.UNKNOWN: ("{name}：无法判断是否在使用",),
    Trouble.STOP_FAILED: ("{name} 未能停止",),
    Trouble.STOP_REFUSED: ("{name} 没有停止",),
    Trouble.SAVE_FAILED: ("{name}：镜像未能保存",),
    Trouble.WAKE_FAILED: ("{name} 未能启动",),
    Trouble.WAKE_BLOCKED: ("{name} 没有启动",),
    Trouble.NOT_READY: ("{name}：模型没有加载",),
    Kind.STOPPED: ("{name} 已停止，节省约 {saved}", "{name} 已停止"),
    Kind.WOKEN: ("{name} 已启动",),
    Kind.FOREIGN: ("{name} 被他人停止或启动",),
    Kind.BUDGET: ("{budget}已用 {share}", "预算已用 {share}", "预算即将用完"),
    Kind.FORECAST: ("{budget}将提前用完", "预算将提前用完"),
    Kind.FIRST_PAID: ("{name} 开始收费",),
    Kind.TRIAL_END: ("免费试用将在 {within}后结束", "免费试用即将结束"),
    Kind.SUGGESTION: ("更合适的 idle.after：{setting}", "更合适的 idle.after"),
}

CHINESE = Words(
    titles=TITLES,
    lines=LINES,
    units=("天", "小时", "分钟", "秒"),
    compute_hours="计算时",
    joint="、",
    gpu="GPU {}",
    nameless=("GPU", "GPU"),
    other_day="%-m月%-d日 %H:%M",
    other_year="%Y年%-m月%-d日 %H:%M",
    budgets={"compute-hours": "计算时预算", "yuan": "人民币预算"},
    links={"stop": "立即停止", "hold-30": "再保持 30 分钟", "hold-120": "再保持 2 小时", "mute": "今天不再提醒"},
)
