"""What the tests share: import from the modules below, or use the fixtures of `tests/conftest.py`.

ports        free ports on the loopback address
processes    a command in its own process group: started, waited for, always ended
serve        a server command on a free port: started, waited for, always ended
rawhttp      an HTTP client that shows a response as the bytes that came
statsd       a StatsD receiver with a strict grammar
services     PostgreSQL, MariaDB, Redis, Etsy's statsd: the running one, or a private one
site         the Django project of `tests/project`: its environment and its database
"""
