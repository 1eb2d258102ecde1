"""URLs of the shop, one for each kind of view."""

import functools

from django.conf import settings
from django.urls import include, path, re_path

from books import views

shelf = [path("books/<int:pk>/", views.BookDetail.as_view(), name="detail")]

urlpatterns = [
    path("", views.index, name="index"),
    path("plain/", views.plain),
    path("late-template/", views.late_template),
    path("async-plain/", views.async_plain),
    path("async-queries/", views.async_queries),
    path("async-error/", views.async_error),
    path("stream/", views.stream),
    path("stream-error/", views.stream_error),
    path("held-stream/", views.held_stream),
    path("async-stream/", views.async_stream),
    path("download/", views.download),
    path("class/", views.Hello.as_view()),
    path("async-class/", views.AsyncHello.as_view()),
    path("books/", views.BookList.as_view()),
    path("shelf/<slug:shelf>/", include((shelf, "shelf"), namespace="shelf")),
    path("partial/", functools.partial(views.greet, greeting="hello from a partial")),
    path("object/", views.Greeter()),
    path("method/", views.Greeter().by_method),
    path("lambda/", lambda request: views.plain(request)),
    path("decorated/", views.decorated),
    path("shouted/", views.shouted),
    path("echo/", views.echo),
    path("value-error/", views.value_error),
    path("missing/", views.missing),
    path("forbidden/", views.forbidden),
    path("suspicious/", views.suspicious),
    path("gone/", views.gone),
    path("redirect/", views.redirect),
    path("cookie/", views.cookie),
    path("queries/<int:number>/", views.queries),
    path("cursor/", views.cursor),
    path("sell/", views.sell),
    path("broken-sql/", views.broken_sql),
    re_path(r"^outgoing/(?P<library>requests|urllib3|urllib)/$", views.outgoing),
    path("slow/<int:milliseconds>/", views.slow),
    path("async-slow/<int:milliseconds>/", views.async_slow),
    path("log/", views.log),
    path("cached/", views.cached),
    path("whoami/", views.whoami),
]

if settings.HAS_REST_FRAMEWORK:
    from books import api

    urlpatterns += [
        path("api/count/", api.Count.as_view()),
        path("api/books/", api.BookViewSet.as_view({"get": "list"})),
        path("api/books/<int:pk>/", api.BookViewSet.as_view({"get": "retrieve"})),
    ]
