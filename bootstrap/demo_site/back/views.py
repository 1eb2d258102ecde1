"""What the shop asks for."""

import logging
import time

from django.db import transaction
from django.db.models import F, Sum
from django.http import JsonResponse
from django.shortcuts import get_object_or_404, render

from back.models import Item, Movement

logger = logging.getLogger("back")

SLOW_SECONDS = 1.1


def index(request):
    """Show the warehouse to somebody who comes by."""
    return render(request, "back/index.html", {"items": Item.objects.order_by("sku")})


def stock(request):
    """Tell price and stock of everything."""
    return JsonResponse({item.sku: _as_json(item) for item in Item.objects.all()})


def item(request, sku):
    """Tell price and stock of one thing."""
    found = get_object_or_404(Item, sku=sku)
    logger.info("price of %s", sku)
    return JsonResponse(_as_json(found))


def reserve(request, sku):
    """Take one copy out."""
    with transaction.atomic():
        found = get_object_or_404(Item, sku=sku)
        if found.copies < 1:
            raise ValueError(f"{sku} is sold out")
        Item.objects.filter(pk=found.pk).update(copies=F("copies") - 1)
        Movement.objects.create(item=found, copies=-1)
    logger.info("reserved %s", sku)
    return JsonResponse({"sku": sku})


def audit(request):
    """Add everything up, slowly."""
    logger.warning("audit without an index, this takes a while")
    time.sleep(SLOW_SECONDS)
    total = Item.objects.aggregate(copies=Sum("copies"))["copies"]
    return JsonResponse({"copies": total, "movements": Movement.objects.count()})


def _as_json(found):
    return {"copies": found.copies, "price": f"{found.price_cents / 100:.2f}"}
