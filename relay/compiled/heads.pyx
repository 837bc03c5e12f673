# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""`relay.plain.read_plain`, compiled: it says yes to what is clearly plain, and asks the other about all the rest.

No scan can run past the end: a bytes object ends with a NUL, which is in no class of characters here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memchr, memcmp

from relay.models import Request
from relay.plain import (
    FIRST_LINE_BYTES_MAX,
    FIRST_LINES_MAX,
    IS_LAST,
    LENGTH_DIGITS_MAX,
    REQUEST_BYTES_MAX,
    UNFINISHED,
    UNUSUAL,
    Plain,
    read_first_line,
)
from relay.plain import read_plain as read_plain_slowly

cdef enum:
    TOKEN = 1  # may stand in a header's name
    TEXT = 2  # in its value
    BLANK = 4
    DIGIT = 8
    NAMES_MAX = 1024
    NAME_BYTES_MAX = 64

cdef enum Role:
    COMMON
    LENGTH
    HOST
    CONNECTION
    FORBIDDEN

cdef unsigned char CLASSES[256]
#: A name that was met before, by its hash: as it came, in lower case, and its role. Senders repeat their headers.
cdef list names = [None] * NAMES_MAX
#: First lines that were met before: source, path and query.
cdef dict first_lines = {}
cdef Py_ssize_t line_bytes_max = FIRST_LINE_BYTES_MAX, lines_max = FIRST_LINES_MAX, bytes_max = REQUEST_BYTES_MAX
cdef Py_ssize_t digits_max = LENGTH_DIGITS_MAX
cdef dict roles = {b"content-length": LENGTH, b"host": HOST, b"connection": CONNECTION}
roles.update(dict.fromkeys(UNUSUAL, FORBIDDEN))


cdef void classify():
    cdef int code
    for code in range(256):
        CLASSES[code] = 0
    for code in b"!#$%&'*+.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-":
        CLASSES[code] |= TOKEN
    for code in range(32, 256):
        CLASSES[code] |= TEXT if code != 127 else 0
    for code in b" \t":
        CLASSES[code] |= BLANK
    for code in b"0123456789":
        CLASSES[code] |= DIGIT


classify()


cpdef object read_plain(bytes data, Py_ssize_t headers_max, Py_ssize_t head_bytes_max):
    """See relay.plain."""
    found = read_clear(data, headers_max, head_bytes_max)
    return read_plain_slowly(data, headers_max, head_bytes_max) if found is None else found


cdef object read_clear(bytes data, Py_ssize_t headers_max, Py_ssize_t head_bytes_max):
    """A Plain, or UNFINISHED when the body alone is not whole; None: it is for the other to say."""
    cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data), at, begin, end, name_bytes, length = -1
    cdef bint has_host = False
    cdef int role
    cdef list headers = []
    cdef dict named = {}
    cdef tuple name
    cdef object wish = None
    cdef const void* line_end = memchr(text, 13, size)
    if line_end == NULL:
        return None
    at = <const unsigned char*>line_end - text
    first = first_line(text, at)
    if first is None or text[at + 1] != 10:
        return None
    at += 2
    while CLASSES[text[at]] & TOKEN:
        begin = at
        while CLASSES[text[at]] & TOKEN:
            at += 1
        if text[at] != 58:
            return None
        name_bytes = at - begin
        name = known_name(text + begin, name_bytes)
        at += 1
        while CLASSES[text[at]] & BLANK:
            at += 1
        begin = at
        while CLASSES[text[at]] & TEXT:
            at += 1
        if text[at] != 13 or text[at + 1] != 10 or CLASSES[text[at - 1]] & BLANK:
            return None
        value = PyBytes_FromStringAndSize(<const char*>text + begin, at - begin)
        role = name[2]
        if role != COMMON:
            if role == LENGTH:
                length = number(text + begin, at - begin)
            elif role == HOST:
                has_host = at > begin
            elif role == CONNECTION:
                wish = value
            else:
                return None
        headers.append((name[0], value))
        named[name[1]] = value
        at += 2
    last = IS_LAST.get(wish)
    if text[at] != 13 or text[at + 1] != 10 or at - 2 > head_bytes_max or length < 0 or not has_host or last is None:
        return None
    if len(headers) > headers_max or len(named) != len(headers):
        return None
    begin = at + 2
    end = begin + length
    if end > bytes_max:
        return None
    if end > size:
        return UNFINISHED
    body = PyBytes_FromStringAndSize(<const char*>text + begin, length)
    source, path, query = <tuple>first
    return Plain(source, Request("POST", path, query, tuple(headers), body), end, last, named)


cdef object first_line(const unsigned char* text, Py_ssize_t size):
    """Source, path and query; None when there is something else, or it is too long to be remembered."""
    if size > line_bytes_max:
        return None
    line = PyBytes_FromStringAndSize(<const char*>text, size)
    found = first_lines.get(line)
    if found is None:
        found = read_first_line(line)
        if found is not None:
            if len(first_lines) >= lines_max:
                first_lines.clear()
            first_lines[line] = found
    return found


def lines_known() -> int:
    """How many first lines are remembered now."""
    return len(first_lines)


cdef tuple known_name(const unsigned char* text, Py_ssize_t size):
    """The name, the same in lower case, and its role."""
    cdef unsigned int mixed = 5381
    cdef Py_ssize_t place
    cdef bytes name
    cdef tuple known
    for place in range(size):
        mixed = mixed * 33 ^ text[place]
    place = mixed & (NAMES_MAX - 1)
    found = names[place]
    if found is not None:
        known = <tuple>found
        name = <bytes>known[0]
        if PyBytes_GET_SIZE(name) == size and memcmp(PyBytes_AS_STRING(name), text, size) == 0:
            return known
    name = PyBytes_FromStringAndSize(<const char*>text, size)
    lower = name.lower()
    known = (name, lower, roles.get(lower, COMMON))
    if size <= NAME_BYTES_MAX:
        names[place] = known
    return known


cdef Py_ssize_t number(const unsigned char* text, Py_ssize_t size):
    """What the digits say; -1 for anything else."""
    cdef Py_ssize_t found = 0, place
    if not 0 < size <= digits_max:
        return -1
    for place in range(size):
        if not CLASSES[text[place]] & DIGIT:
            return -1
        found = found * 10 + (text[place] - 48)
    return found
