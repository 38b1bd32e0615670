"""Shoppers: mostly product pages, now and then an asset that the edge keeps. Closed loop, so that a slow API is asked less."""
import random

from locust import FastHttpUser, constant, task

random.seed(12)


class Shopper(FastHttpUser):
    wait_time = constant(0.1)

    @task(9)
    def product(self):
        self.client.get(f"/api/v1/products/{random.randrange(500)}", name="product")

    @task(1)
    def asset(self):
        self.client.get(f"/assets/style-{random.randrange(10)}", name="asset")
