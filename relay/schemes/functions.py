"""The schemes that no table can describe, by the name that a preset's `[scheme]` gives with kind = "function"."""

from __future__ import annotations

from typing import Final

from relay.schemes.adyen import Adyen
from relay.schemes.base import Scheme
from relay.schemes.box import Box
from relay.schemes.braintree import Braintree
from relay.schemes.contentful import Contentful
from relay.schemes.dropbox_sign import DropboxSign
from relay.schemes.hook0 import Hook0
from relay.schemes.sns import Sns
from relay.schemes.twilio import Twilio
from relay.schemes.unisender_go import UnisenderGo

#: Each is constructed with `delivery_id` and `event_type` only.
FUNCTIONS: Final[dict[str, type[Scheme]]] = {
    "adyen": Adyen,
    "box": Box,
    "braintree": Braintree,
    "contentful": Contentful,
    "dropbox_sign": DropboxSign,
    "hook0": Hook0,
    "sns": Sns,
    "twilio": Twilio,
    "unisender_go": UnisenderGo,
}
