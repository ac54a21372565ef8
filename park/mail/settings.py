"""The settings of [mail] in park.toml as values."""

from __future__ import annotations

from dataclasses import dataclass, field

from park.mail.notices import MailPolicy

#: The file in the broker's home that says how many mails wait, and the last error; `park doctor` reads it.
STATUS_FILE = "mail.json"
#: The keys of [mail] with their values where park.toml has none; without host or sendmail no mail is sent.
MAIL_DEFAULTS = {
    "host": "",
    "sendmail": "",
    "sender": "",
    "security": "starttls",
    "digest": "07:00",
    "zone": "",
    "limit": MailPolicy().limit,
    "page": "",
    "channels_file": "",
}


@dataclass(frozen=True, slots=True)
class MailSettings:
    """The settings of mail. *port* 0 is the usual one of *security*: 587 for "starttls", 465 for "tls", 25 for "none".

    *password_file* is a file of mode 0600 with the password of *user*. *ca_file*: certificates to trust besides those of
    the system. *sendmail*: the program that takes mails in place of a server; "": there is none. *channels*: URLs of
    channels by name. *page*: the address of the web page, for links; "": there is none.
    """

    host: str
    sender: str
    sendmail: str = ""
    port: int = 0
    security: str = "starttls"
    user: str = ""
    password_file: str = ""
    ca_file: str = ""
    page: str = ""
    channels: dict[str, str] = field(default_factory=dict)
    policy: MailPolicy = field(default_factory=MailPolicy)

    @property
    def real_port(self) -> int:
        """The port that counts."""
        return self.port or {"starttls": 587, "tls": 465, "none": 25}[self.security]
