"""Commands of the site with tasks."""
