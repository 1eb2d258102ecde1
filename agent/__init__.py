"""What a measurement is and how it leaves the process.

In reading order:

- ``settings``   every ``INTROSPECT_*`` variable, parsed once into a frozen ``Settings``
- ``metrics``    what a metric is, the grammar of its names on the wire, and the name budget
- ``work``       a unit of work (a request, a command, a task) and what it collects
- ``emitter``    lines → datagrams → StatsD; the only file that owns a StatsD socket
- ``patching``   replace a function, call the original exactly once, observe, restore
- ``imports``    run a hook when a module has been imported
- ``guard``      whatever goes wrong in our code stays in our code
"""

__version__ = "0.1.0"
