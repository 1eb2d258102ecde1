"""The project's URLs and those of django-debug-toolbar."""

from debug_toolbar.toolbar import debug_toolbar_urls
from shop.urls import urlpatterns

urlpatterns = [*urlpatterns, *debug_toolbar_urls()]
