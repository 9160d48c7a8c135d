"""Training for competitions: one module and one config/task file each, beside what they share."""
