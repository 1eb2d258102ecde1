"""The console's pages: a Datasette plugin with its own routes, templates and scripts.

In reading order: `app` serves, `guard` decides who may talk to it, `plugin` maps addresses to
pages and data, `span` reads the range and the filters every address carries.
"""
