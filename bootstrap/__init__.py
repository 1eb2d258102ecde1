"""From a bare interpreter to a running agent.

The installed commands begin in ``launcher``. ``introspect-run`` (``run``) puts ``startup/`` first
on ``PYTHONPATH`` and becomes the command. The interpreter then runs ``startup/sitecustomize.py``,
which waits for Django, and ``start`` puts the agent together once Django is being imported. ``cli``
is the ``introspect`` command.
"""
