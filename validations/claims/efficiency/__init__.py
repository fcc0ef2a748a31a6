"""The energy that trained controls spend beyond the least that their effect needs."""
