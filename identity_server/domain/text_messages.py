"""What a text message with a code says.

The rule: what this program adds never makes a message cost twice.
"""

from __future__ import annotations

# GSM 03.38: the letters that take seven bits, and those that take two of them.
_GSM_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENDED = frozenset("^{}\\[~]|€\f")
_GSM_LENGTH = 160
_UNICODE_LENGTH = 70


def code_message(template: str, *, code: str, domain: str) -> str:
    """The text of a message with a code.

    It ends with the line by which phones offer the code to the page that waits for it ("origin-bound one-time
    codes", `@domain #code`), unless the template has one of its own or the message would not fit into one SMS.

    >>> print(code_message("Your code is {token}", code="123456", domain="id.example.org"))
    Your code is 123456
    <BLANKLINE>
    @id.example.org #123456

    Args:
        template: with `{token}` in it.
        code: what the template's `{token}` stands for.
        domain: the host that the code is for.
    """
    text = template.format(token=code)
    with_line = f"{text}\n\n@{domain} #{code}"
    return with_line if f"#{code}" not in text and fits_one_sms(with_line) else text


def fits_one_sms(text: str) -> bool:
    """Whether a text is sent, and paid for, as a single message."""
    if all(character in _GSM_BASIC or character in _GSM_EXTENDED for character in text):
        return sum(2 if character in _GSM_EXTENDED else 1 for character in text) <= _GSM_LENGTH
    return len(text.encode("utf-16-be")) // 2 <= _UNICODE_LENGTH
