# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The common way to send a MAC, compiled: where the MAC is sent so, it says whether it matches (a no says nothing, see
`relay.schemes.base.Vouches`), and asks the Python way about all the rest.

Read `relay.schemes.mac_forms` first, which says what is common.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport floor
from libc.string cimport memcmp, memcpy

from hmac import compare_digest

cdef enum:
    #: More digits might not be exact as a floating-point number.
    DIGITS_MAX = 15

cdef class Item:
    """What follows a prefix in a header: the whole of it, or one item of a list, whose items may have blanks before
    them where `padded`. It is nothing but characters of `allowed`, a byte for each of 256.
    """

    cdef bytes header, prefix, allowed
    cdef unsigned char separator
    cdef bint whole, padded
    cdef Py_ssize_t bytes_max

    def __init__(
        self, header: bytes, separator: bytes, prefix: bytes, allowed: bytes, bytes_max: int, padded: bool = False
    ) -> None:
        if len(allowed) != 256:
            raise ValueError("a byte for each of 256")
        self.header, self.prefix, self.allowed, self.bytes_max = header, prefix, allowed, bytes_max
        self.padded = padded
        self.separator = separator[0] if separator else 0
        self.whole = not separator

    cdef bytes find(self, object named):
        """None when there is none, or more than one, or anything else that is not common."""
        cdef object sent = named.get(self.header)
        cdef const unsigned char* text
        cdef const unsigned char* prefix = <const unsigned char*>PyBytes_AS_STRING(self.prefix)
        cdef const unsigned char* allowed = <const unsigned char*>PyBytes_AS_STRING(self.allowed)
        cdef Py_ssize_t size, begin = 0, end, place, prefix_bytes = PyBytes_GET_SIZE(self.prefix)
        cdef Py_ssize_t found_begin = -1, found_end = -1
        if sent is None:
            return None
        text = <const unsigned char*>PyBytes_AS_STRING(<bytes?>sent)
        size = PyBytes_GET_SIZE(<bytes>sent)
        if size > self.bytes_max:
            return None
        while begin <= size:
            while self.padded and text[begin] == 32:
                begin += 1
            end = begin
            while end < size and (self.whole or text[end] != self.separator):
                end += 1
            if end - begin > prefix_bytes and memcmp(text + begin, prefix, prefix_bytes) == 0:
                if found_begin >= 0:
                    return None
                found_begin, found_end = begin + prefix_bytes, end
            begin = end + 1
        if found_begin < 0:
            return None
        for place in range(found_begin, found_end):
            if not allowed[text[place]]:
                return None
        return PyBytes_FromStringAndSize(<const char*>text + found_begin, found_end - found_begin)


cdef class MacVoucher:
    """As `Mac.voucher` gives them. `content` are the parts of what is signed: bytes, an Item, or None for the body.
    `time` is where the signed time stands, if it is judged: whole seconds, or milliseconds with `in_ms`.
    """

    cdef readonly object ask
    cdef object decode
    cdef Item signature, time
    cdef list macs, content
    cdef bint in_ms, has_past, has_future
    cdef double past, future

    def __init__(
        self, ask: object, macs: list, signature: Item, decode: object, content: list, time: Item | None = None,
        in_ms: bool = False, past: float | None = None, future: float | None = None,
    ) -> None:
        self.ask, self.macs, self.signature, self.decode, self.content = ask, macs, signature, decode, content
        self.time, self.in_ms = time, in_ms
        self.has_past, self.has_future = past is not None, future is not None
        self.past, self.future = past or 0.0, future or 0.0

    def __call__(self, reader: object, now_s: float) -> bool:
        said = self.judge(reader, now_s)
        return self.ask(reader, now_s) if said is None else said

    cdef object judge(self, object reader, double now_s):
        """Whether a signature that is sent in the common way matches; None when it is not, or not timely."""
        cdef object named = reader.named
        cdef bytes sent, content
        if reader.several:
            return None
        sent = self.signature.find(named)
        if sent is None:
            return None
        signature = self.decode(sent)
        if not signature or not self.is_timely(named, now_s):
            return None
        content = self.signed(named, reader.request.body)
        if content is None:
            return None
        for mac in self.macs:
            if compare_digest(mac(content), signature):
                return True
        return False

    cdef bytes signed(self, object named, bytes body):
        """What is signed; None when a part of it is not there."""
        cdef Py_ssize_t size = 0
        cdef bytes whole, part
        cdef list parts = []
        cdef char* at
        for wanted in self.content:
            if wanted is None:
                part = body
            elif isinstance(wanted, Item):
                part = (<Item>wanted).find(named)
            else:
                part = <bytes?>wanted
            if part is None:
                return None
            parts.append(part)
            size += PyBytes_GET_SIZE(part)
        if len(parts) == 1:
            return <bytes>parts[0]
        whole = PyBytes_FromStringAndSize(NULL, size)
        at = PyBytes_AS_STRING(whole)
        for found in parts:
            size = PyBytes_GET_SIZE(<bytes>found)
            memcpy(at, PyBytes_AS_STRING(<bytes>found), size)
            at += size
        return whole

    cdef bint is_timely(self, object named, double now_s) except -1:
        cdef bytes text
        cdef const unsigned char* digits
        cdef Py_ssize_t place
        cdef long long units = 0
        cdef double age
        if self.time is None:
            return True
        text = self.time.find(named)
        if text is None or PyBytes_GET_SIZE(text) > DIGITS_MAX:
            return False
        digits = <const unsigned char*>PyBytes_AS_STRING(text)
        for place in range(PyBytes_GET_SIZE(text)):
            if not 48 <= digits[place] <= 57:
                return False
            units = units * 10 + (digits[place] - 48)
        age = now_s - units / 1000.0 if self.in_ms else floor(now_s) - units
        return not (self.has_past and age > self.past) and not (self.has_future and -age > self.future)
