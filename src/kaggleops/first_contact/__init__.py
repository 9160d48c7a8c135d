"""What is assumed of the real services, checked on them with a person's own account.

The tests talk to loopback services that behave as the real ones were read and reported to. What
they take for granted is listed here in tables: an assumption's name, what is assumed, what breaks
if it is false, how it is checked. `kaggleops doctor --try` checks them on the real service,
tests/first_contact on the loopback one and on one that differs in just that.
"""
