"""What operators read on buttons and in answers to them, English and Chinese. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bot.money import wording_en, wording_zh
from bot.money.situation import State


@dataclass(frozen=True, slots=True)
class Words:
    """One language. `{until}`, `{at}`, `{since}` are times with their zone, `{time}` one without, `{by}` a name.

    `*_line`: what is added to the message whose button was pressed; the rest are labels, toasts and answers.
    """

    # buttons
    stop: str
    minutes: str
    hours: str
    until: str
    until_tomorrow: str
    mute: str
    wake: str
    yes: str
    no: str
    # presses
    really: str
    really_used: str
    stopping: str
    stopping_line: str
    kept: str
    held: str
    held_line: str
    muted: str
    muted_line: str
    waking: str
    waking_line: str
    # refusals
    noted: str
    dead: str
    unknown: str
    old: str
    not_allowed: str
    down: str
    going: str
    starting: str
    up: str
    passed: str
    hold_usage: str
    # answers
    released: str
    states: Mapping[State, str]
    reason: str
    idle: str
    looked: str
    after_use: str
    at_latest: str
    dry_run: str
    by_itself_not: str
    stopped_at: str
    held_until: str
    message_wakes: str
    human: str
    again: str
    no_cost: str
    # times
    other_day: str
    units: tuple[str, str, str, str]


ENGLISH = Words(
    stop="Stop now",
    minutes="{count} more min",
    hours="{count} h",
    until="Until {time}",
    until_tomorrow="Until tomorrow {time}",
    mute="Mute today",
    wake="Wake it",
    yes="Yes, stop it",
    no="No",
    really="Really stop it? Choose below.",
    really_used="Wait: {reason}. Stop it all the same? Choose below.",
    stopping="It is being stopped; answers that are being written come to their end first.",
    stopping_line="Stop asked for at {at} by {by}",
    kept="Nothing is stopped.",
    held="Held until {until}.",
    held_line="Held until {until} by {by}",
    muted="No reminders until {until}. Holding it is another button.",
    muted_line="No reminders until {until}, asked for by {by}",
    waking="It is being woken; that takes some minutes.",
    waking_line="Woken at {at} by {by}",
    noted="That is noted already.",
    dead="This button does nothing any more.",
    unknown="Nothing is known of the instance yet. Try again in a minute.",
    old="That notice is old: it was used or held since. Ask /status for what you can do now.",
    not_allowed="It may not be stopped: dsw.allow_stop is off, or dsw.dry_run on.",
    down="It is stopped already.",
    going="It is being stopped; it is too late to hold it.",
    starting="It is just being woken: stop it once it runs.",
    up="It runs already, or is being woken.",
    passed="That time has passed. Choose another one.",
    hold_usage="Write for how long, up to a day: /hold 30m, /hold 2h, or until when: /hold 18:00.",
    released="Nothing holds it any more: idle time counts again.",
    states={
        State.ACTIVE: "In use", State.IDLE: "Idle", State.WARNED: "Idle, to be stopped soon", State.HELD: "Held",
        State.DRAINING: "About to stop", State.SAVING: "Saving its image", State.STOPPING: "Stopping",
        State.STOPPED: "Stopped", State.WAKING: "Being woken", State.WARMING: "Loading the model",
        State.DEGRADED: "In trouble", State.BLOCKED: "Stopped, and not to be woken",
    },
    reason="Why: {reason}.",
    idle="Idle since {since}, for {idle}.",
    looked="Nobody has looked since {at}.",
    after_use="Next: once it is idle for {after}, you are told.",
    at_latest="Next: it is stopped at {until} at the latest, unless it is used.",
    dry_run="Next: nothing; this is a dry run, which would stop it at {until} at the latest.",
    by_itself_not="Next: you are reminded; nothing stops it by itself.",
    stopped_at="Next: it is stopped at {until}, unless it is used or held.",
    held_until="Next: idle time counts again from {until}.",
    message_wakes="Next: a message wakes it.",
    human="Next: somebody must see to it.",
    again="Next: it is tried again at {until}.",
    no_cost="What it cost today can't be told now; the log says why.",
    other_day=wording_en.ENGLISH.other_day,
    units=wording_en.ENGLISH.units,
)  # fmt: skip

CHINESE = Words(
    stop="立即停止",
    minutes="再保持 {count} 分钟",
    hours="{count} 小时",
    until="到 {time}",
    until_tomorrow="到明天 {time}",
    mute="今天不再提醒",
    wake="唤醒",
    yes="是，停止",
    no="否",
    really="确定要停止吗？请在下方选择。",
    really_used="请注意：{reason}。仍要停止吗？请在下方选择。",
    stopping="正在停止；会先等正在写的回答写完。",
    stopping_line="{by} 于 {at} 要求停止",
    kept="没有停止任何东西。",
    held="保持运行到 {until}。",
    held_line="保持运行到 {until}（{by}）",
    muted="{until} 之前不再提醒。想保持运行请按另一个按钮。",
    muted_line="{until} 之前不再提醒（{by}）",
    waking="正在唤醒，需要几分钟。",
    waking_line="{by} 于 {at} 唤醒",
    noted="已经记下了。",
    dead="这个按钮已失效。",
    unknown="还不知道实例的情况，请一分钟后再试。",
    old="这条通知已过时：之后实例又被使用或保持过。发送 /status 查看现在能做什么。",
    not_allowed="不允许停止：dsw.allow_stop 未开启，或 dsw.dry_run 已开启。",
    down="已经停止了。",
    going="正在停止，来不及保持运行了。",
    starting="正在唤醒，请等它运行后再停止。",
    up="它已在运行，或正在唤醒。",
    passed="这个时间已经过了，请另选一个。",
    hold_usage="请写明多久（最长一天）：/hold 30m、/hold 2h，或到几点：/hold 18:00。",
    released="已取消保持，重新开始计算空闲时间。",
    states={
        State.ACTIVE: "使用中", State.IDLE: "空闲", State.WARNED: "空闲，即将停止", State.HELD: "保持运行中",
        State.DRAINING: "准备停止", State.SAVING: "正在保存镜像", State.STOPPING: "正在停止",
        State.STOPPED: "已停止", State.WAKING: "正在唤醒", State.WARMING: "正在加载模型",
        State.DEGRADED: "出了问题", State.BLOCKED: "已停止，且不会被唤醒",
    },
    reason="原因：{reason}。",
    idle="从 {since} 起空闲，已 {idle}。",
    looked="{at} 之后没有再查看过。",
    after_use="接下来：空闲 {after}后会通知你。",
    at_latest="接下来：若无人使用，最迟 {until} 停止。",
    dry_run="接下来：不会停止；目前是试运行，本应最迟 {until} 停止。",
    by_itself_not="接下来：会提醒你，但不会自动停止。",
    stopped_at="接下来：若无人使用或保持，{until} 停止。",
    held_until="接下来：{until} 起重新计算空闲时间。",
    message_wakes="接下来：有消息时会被唤醒。",
    human="接下来：需要有人处理。",
    again="接下来：{until} 再试一次。",
    no_cost="暂时无法给出今天的费用，原因见日志。",
    other_day=wording_zh.CHINESE.other_day,
    units=wording_zh.CHINESE.units,
)  # fmt: skip


def words_for(language: str) -> Words:
    """Of a language code; English for all that is not Chinese."""
    return CHINESE if language.lower().startswith("zh") else ENGLISH
