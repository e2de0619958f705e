"""What notices say in English."""

from bot.money.notice import Kind
from bot.money.situation import Reminder, Trouble
from bot.money.wording_table import Line, Words

YOURSELF = "stop it yourself (DSW: in the PAI console)"

UNPRICED = "{unpriced}To see what that costs, set budget.yuan_per_hour or budget.compute_hours_per_hour."
COST = (
    "This idle time has cost {cost}; every further hour costs {hourly}.",
    "This idle time has cost {cost}.",
    "An hour of running costs {hourly}.",
    UNPRICED,
)
HOURLY = ("An hour of running costs {hourly}.", UNPRICED)
LEFT = (
    "{left} left: enough until {until} if it runs on.",
    "{left} left.",
    "What is left lasts until {until} if it runs on.",
)
REMAINS = ("{left} left.",)
WHY = ("Why: {reason}.",)
RUNS_ON = ("Nothing stops it by itself.",)
STOP_OR_HOLD = (
    "{stoppable}If you are done, stop it now; to keep it without reminders, hold it.",
    "{fixed}If you are done, " + YOURSELF + "; otherwise just use it.",
)
KEEP = ("To keep it, use it or hold it; otherwise there is nothing to do.",)
SPEND_LESS = (
    "{stoppable}Stop it now if you are done, or raise the budget.",
    "{fixed}If you are done, " + YOURSELF + ", or raise the budget.",
)
ALLOW = ("To have it stopped, turn dsw.dry_run off and dsw.allow_stop on.",)

LINES: dict[str, tuple[Line, ...]] = {
    Reminder.IDLE: (
        ("{gpu} has been idle for {idle}, since {since}.", "{gpu} is idle."), COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.STILL_IDLE: (
        ("{gpu} is still idle: for {idle} now, since {since}.", "{gpu} is still idle."),
        COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.LONG_IDLE: (
        ("Forgotten? {gpu} has been idle for {idle}, since {since}.", "Forgotten? {gpu} has been idle for hours."),
        COST, LEFT, RUNS_ON, STOP_OR_HOLD,
    ),
    Reminder.WARNED: (
        ("{gpu} will be stopped at {deadline}, in {within}.", "{gpu} will be stopped soon."),
        ("It has been idle for {idle}, since {since}.",), COST, LEFT, KEEP,
    ),
    Reminder.LAST_CALL: (
        ("Last call: {the_gpu} will be stopped at {deadline}, in {within}.",
         "Last call: {the_gpu} will be stopped in a moment."),
        ("It has been idle for {idle}, since {since}.",), COST, LEFT, KEEP,
    ),
    Reminder.STOCK_OUT: (
        ("{gpu} has been idle for {idle}, since {since}.", "{gpu} is idle."),
        ("No such GPU is in stock now: once it is stopped, you may not get it back.",), COST, LEFT,
        ("So nothing stops it by itself while there is none.",),
        ("{stoppable}If you will not need it soon, stop it now; to keep it without reminders, hold it.",
         "{fixed}If you will not need it soon, " + YOURSELF + "; otherwise just use it."),
    ),
    Reminder.DRY_RUN: (
        ("Dry run: {the_gpu} would have been stopped at {at}, after {idle} of idleness.",
         "Dry run: {the_gpu} would have been stopped at {at}."),
        COST, LEFT, ("It runs on; what that costs will be told once it is used again.",), ALLOW,
    ),
    Reminder.DRY_RUN_SAVED: (
        ("Dry run: to stop {the_gpu} would have saved about {saved}, {saved_time} of running.",
         "Dry run: to stop {the_gpu} would have saved about {saved}.",
         "Dry run: to stop {the_gpu} would have saved {saved_time} of running.",
         "Dry run: the idle time of {the_gpu} is over."),
        ("It was idle for {idle}, from {since} to {at}.",), (UNPRICED,), LEFT, ALLOW,
    ),
    Trouble.UNKNOWN: (
        ("For a long time nobody could tell whether {the_gpu} is in use, so it is kept running.",), WHY, HOURLY, LEFT,
        ("{stoppable}Put that right, or stop it now if you are done.",
         "{fixed}Put that right; if you are done, " + YOURSELF + "."),
    ),
    Trouble.STOP_FAILED: (
        ("{gpu} could not be stopped and goes on costing; it is tried again and again.",), WHY, COST, LEFT,
        ("To be sure, " + YOURSELF + ".",),
    ),
    Trouble.STOP_REFUSED: (
        ("{gpu} was not stopped, although somebody asked for it.",), WHY, HOURLY, LEFT,
        ("Ask again once that is over, or " + YOURSELF + ".",),
    ),
    Trouble.SAVE_FAILED: (
        ("The image of {the_gpu} could not be saved, so it was not stopped.",), WHY, COST, LEFT, RUNS_ON,
        ("{stoppable}Save it by hand, or stop it now if you can do without its changes.",
         "{fixed}Save it by hand; if you can do without its changes, " + YOURSELF + "."),
    ),
    Trouble.WAKE_FAILED: (
        ("{gpu} could not be started; it is tried again and again. Messages wait.",), WHY, REMAINS,
        ("To help, start it yourself (DSW: in the PAI console).",),
    ),
    Trouble.WAKE_BLOCKED: (
        ("{gpu} is not started. Messages wait.",), WHY, REMAINS,
        ("See to the budget or the account, or start it yourself (DSW: in the PAI console).",),
    ),
    Trouble.NOT_READY: (
        ("{gpu} runs, but its model is not loaded. Messages wait.",), WHY, HOURLY, LEFT,
        ("The log says what keeps it; if nothing helps, " + YOURSELF + ".",),
    ),
    Kind.STOPPED: (
        ("{gpu} was stopped at {at}, after {idle} of idleness.", "{gpu} was stopped at {at}."),
        ("About {saved} saved against running on for {saved_time}.", "About {saved} saved.",
         "That saved {saved_time} of running.", "It no longer costs {hourly} an hour."),
        ("It had run for {up}; the idle time cost {cost}.", "The idle time cost {cost}.", "It had run for {up}."),
        REMAINS, (UNPRICED,), ("Nothing was deleted; it can be started again.",),
    ),
    Kind.WOKEN: (("{gpu} was started at {at}.",), WHY, HOURLY, LEFT),
    Kind.FOREIGN: (
        ("Somebody else has stopped or started {the_gpu}; seen at {at}.",), WHY, HOURLY, REMAINS,
        ("If that was not you, see who has access to the instance.",),
    ),
    Kind.BUDGET: (
        ("{share} of the {budget} for {period} is spent: {cost}.", "{share} of the {budget} for {period} is spent.",
         "{share} of the {budget} is spent.", "{share} of a budget is spent.", "A budget is nearly spent."),
        HOURLY, LEFT, SPEND_LESS,
    ),
    Kind.FORECAST: (
        ("At this pace the {budget} for {period} runs out at {ends}.", "At this pace the {budget} runs out at {ends}.",
         "At this pace a budget runs out before its time."),
        HOURLY, REMAINS, SPEND_LESS,
    ),
    Kind.FIRST_PAID: (
        ("The free compute-hours are spent: from {at} on {the_gpu} costs money.",), HOURLY, LEFT, STOP_OR_HOLD,
    ),
    Kind.TRIAL_END: (
        ("The free trial ends at {deadline}, in {within}; from then on {the_gpu} costs money.",
         "The free trial ends soon; from then on {the_gpu} costs money."),
        HOURLY, REMAINS, ("Use what is left until then, and stop it when you are done.",),
    ),
    Kind.SUGGESTION: (
        ("With idle.after = {setting} the past weeks would have cost about {saved} less, {saved_time} of running.",
         "With idle.after = {setting} the past weeks would have taken {saved_time} less of running.",
         "With another idle.after the past weeks would have cost less."),
        WHY, ("To have it so, set idle.after.",),
    ),
}  # fmt: skip

TITLES: dict[str, Line] = {
    Reminder.IDLE: ("{name} idle for {idle}", "{name} idle"),
    Reminder.STILL_IDLE: ("{name} still idle, for {idle}", "{name} still idle"),
    Reminder.LONG_IDLE: ("{name} forgotten? Idle for {idle}", "{name} forgotten? Idle for hours"),
    Reminder.WARNED: ("{name} stops in {within}", "{name} stops soon"),
    Reminder.LAST_CALL: ("Last call: {name} stops in {within}", "Last call: {name} stops"),
    Reminder.STOCK_OUT: ("{name} idle, and none in stock",),
    Reminder.DRY_RUN: ("Dry run: {name} would have been stopped",),
    Reminder.DRY_RUN_SAVED: ("Dry run: {saved} could be saved", "Dry run: what a stop would have saved"),
    Trouble.UNKNOWN: ("{name}: nobody can tell whether it is in use",),
    Trouble.STOP_FAILED: ("{name} could not be stopped",),
    Trouble.STOP_REFUSED: ("{name} was not stopped",),
    Trouble.SAVE_FAILED: ("{name}: the image was not saved",),
    Trouble.WAKE_FAILED: ("{name} could not be started",),
    Trouble.WAKE_BLOCKED: ("{name} is not started",),
    Trouble.NOT_READY: ("{name}: the model is not loaded",),
    Kind.STOPPED: ("{name} stopped, about {saved} saved", "{name} stopped"),
    Kind.WOKEN: ("{name} started",),
    Kind.FOREIGN: ("{name} stopped or started by somebody else",),
    Kind.BUDGET: ("{share} of the {budget} spent", "{share} of a budget spent", "A budget is nearly spent"),
    Kind.FORECAST: ("The {budget} will run out", "A budget will run out"),
    Kind.FIRST_PAID: ("{name} costs money from now on",),
    Kind.TRIAL_END: ("The free trial ends in {within}", "The free trial ends soon"),
    Kind.SUGGESTION: ("A better idle.after: {setting}", "A better idle.after"),
}

ENGLISH = Words(
    titles=TITLES,
    lines=LINES,
    units=("d", "h", "min", "s"),
    compute_hours="compute-hours",
    joint=" and ",
    gpu="GPU {}",
    nameless=("The GPU", "the GPU"),
    other_day="%H:%M on %-d %b",
    other_year="%H:%M on %-d %b %Y",
    budgets={"compute-hours": "compute-hour budget", "yuan": "yuan budget"},
    links={"stop": "Stop now", "hold-30": "30 more minutes", "hold-120": "2 more hours", "mute": "No reminders today"},
)
