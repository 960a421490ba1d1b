"""Spoiled inputs by the thousand: each is refused in one line or done, and never a traceback or a hang."""
