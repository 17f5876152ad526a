"""Personal data that a pattern finds, masked: addresses of mail, public addresses of the internet
protocol, telephone numbers.

What stands in their place is reserved for examples and reaches nobody: example.com (RFC 2606),
192.0.2.1 (RFC 5737), 2001:db8::1 (RFC 3849) and the number 555-0100 (NANPA). What it is not: names,
street addresses and numbers of documents follow no pattern and stay. Private and reserved network
addresses are no personal data and stay too.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Sequence

from pydantic import Field

from puna.config import Config
from puna.corpus.stages import CorpusDocument, StageResult, rewritten

_EMAIL = re.compile(
    r"(?<![\w.+-])[A-Za-z0-9](?:[\w.+%-]{0,62}[\w+%-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w-])",
    re.ASCII,
)
_IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)", re.ASCII)
_IPV6 = re.compile(r"(?<![\w:.])(?=[0-9A-Fa-f]*:)[0-9A-Fa-f:]{3,39}(?![\w:]|\.\w)", re.ASCII)
# E.164: a plus and 8 to 15 digits, spaced as people do; without a plus, the North American form
_PHONE = re.compile(
    r"(?<![\w+.-])(?:\+[1-9](?:[ .\-/]?\(?\d\)?){7,14}"
    r"|(?:1[ .-])?(?:\([2-9]\d{2}\) ?|[2-9]\d{2}[.-])[2-9]\d{2}[ .-]\d{4})(?![\w]|[-.]\d)",
    re.ASCII,
)


class PersonalDataOptions(Config):
    """Options of the stage `personal_data`: what stands in place of each kind; null keeps it."""

    email: str | None = "email@example.com"
    ipv4: str | None = "192.0.2.1"
    ipv6: str | None = "2001:db8::1"
    phone: str | None = Field(default="+1 202-555-0100")


def personal_data(documents: Sequence[CorpusDocument], options: PersonalDataOptions) -> StageResult:
    """Mask what was found, and count it by its kind; no document is dropped."""

    def rewrite(text: str, changed: Counter[str]) -> str:
        # each kind has a character without which its pattern need not look
        if options.email is not None and "@" in text:
            text, found = _EMAIL.subn(_literal(options.email), text)
            changed["addresses of mail"] += found
        if options.ipv4 is not None:
            text = _mask_addresses(text, _IPV4, options.ipv4, changed)
        if options.ipv6 is not None and ":" in text:
            text = _mask_addresses(text, _IPV6, options.ipv6, changed)
        if options.phone is not None:
            text, found = _PHONE.subn(_literal(options.phone), text)
            changed["telephone numbers"] += found
        return text

    return rewritten(documents, rewrite)


def _literal(text: str) -> str:
    """A replacement in which no backslash means anything."""
    return text.replace("\\", r"\\")


def _mask_addresses(text: str, pattern: re.Pattern[str], mask: str, changed: Counter[str]) -> str:
    def replace(match: re.Match[str]) -> str:
        try:
            public = ipaddress.ip_address(match[0]).is_global
        except ValueError:  # 999.1.1.1, or a time
            return match[0]
        if public:
            changed["network addresses"] += 1
        return mask if public else match[0]

    return pattern.sub(replace, text)
