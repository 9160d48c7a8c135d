"""What the tests' loopback services assume of the real ones (assumptions.md), tried on those.

`kaggleops doctor --try` does so with a person's own account, tests/first_contact on the loopback
service and on one that differs in just one assumption.
"""
