"""The books over Django REST framework."""

from rest_framework import serializers, viewsets
from rest_framework.response import Response
from rest_framework.views import APIView

from books.models import Book


class BookSerializer(serializers.ModelSerializer):
    """A book as JSON."""

    class Meta:
        model = Book
        fields = ["id", "title", "stock"]


class Count(APIView):
    """A view class of the framework's; 1 query."""

    authentication_classes = ()
    permission_classes = ()

    def get(self, request):
        """Answer with the number of books."""
        return Response({"books": Book.objects.count()})

    def post(self, request):
        """Answer with what was sent, as the framework's parsers read it."""
        return Response({"received": request.data})


class BookViewSet(viewsets.ReadOnlyModelViewSet):
    """Views by action: `list` and `retrieve`, 1 query each."""

    authentication_classes = ()
    permission_classes = ()
    queryset = Book.objects.all()
    serializer_class = BookSerializer
