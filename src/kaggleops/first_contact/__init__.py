"""What is assumed of the real services, checked on them with a person's own account.

The tests talk to loopback services that behave as the real ones were read and reported to. What
they take for granted is listed here, one file a service, one function an assumption: its name, what
is assumed (its docstring), how it is checked (its body), what breaks if it is false. `kaggleops
doctor --try` runs the functions against the real service, tests/first_contact against the loopback
one and against one that differs in just that.
"""
