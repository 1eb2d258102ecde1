"""The addresses of the warehouse."""

from django.urls import path

from back import views

urlpatterns = [
    path("stock/", views.stock),
    path("stock/<str:sku>/", views.item),
    path("stock/<str:sku>/reserve/", views.reserve),
    path("audit/", views.audit),
    path("", views.index),
]
