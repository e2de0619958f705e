"""A message's limits: Telegram counts UTF-16 units, and takes 4,096 of them."""

LIMIT = 4096
BORDERS = ("\n\n", "\n", "。", ". ", "！", "？", "! ", "? ", "，", ", ", " ")


def units(text: str) -> int:
    """The length of a text as Telegram counts it."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def fitting(text: str, limit: int) -> int:
    """How many characters of the text fit into `limit` units; no character is cut in two."""
    if len(text) * 2 <= limit:
        return len(text)
    used = 0
    for index, character in enumerate(text):
        used += 2 if ord(character) > 0xFFFF else 1
        if used > limit:
            return index
    return len(text)


def split(text: str, limit: int = LIMIT) -> list[str]:
    """The text as messages, cut at the best border in the second half of each; only white space at cuts goes."""
    parts = []
    rest = text.strip()
    while rest:
        size = fitting(rest, limit)
        if size < len(rest):
            size = _border(rest, size)
        parts.append(rest[:size].rstrip())
        rest = rest[size:].lstrip()
    return parts


def _border(text: str, size: int) -> int:
    for border in BORDERS:
        at = text.rfind(border, size // 2, size)
        if at >= 0:
            return at + len(border)
    return size


def preview(text: str, limit: int = LIMIT) -> str:
    """What of a growing text one message can show."""
    text = text.strip()
    return text if units(text) <= limit else text[: fitting(text, limit - 1)] + "…"
