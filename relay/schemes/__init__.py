"""How providers sign, as data: places in a request, the kinds of scheme, and the tables that describe one."""
