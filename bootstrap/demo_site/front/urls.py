"""The addresses of the shop."""

from django.contrib.auth.views import LoginView
from django.urls import path

from front import views

urlpatterns = [
    path("", views.index),
    path("books/<int:pk>/", views.BookDetail.as_view(), name="book"),
    path("books/<int:pk>/buy/", views.buy, name="buy"),
    path("search/", views.search),
    path("report/", views.report),
    path("coupon/", views.coupon),
    path("staff/", views.staff),
    path("login/", LoginView.as_view()),
]
