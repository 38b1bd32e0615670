// Applies price rules to carts; copies all rules for every cart through JSON. Fixed: rules are not copied.
'use strict';
const { Meter } = require('../support/meter.js');

const rules = Array.from({ length: 120 }, (_, number) => ({
  id: number, article: `a-${number % 40}`, percent: number % 15, until: '2030-01-01', channels: ['web', 'shop', 'phone'],
}));

function rulesForCart() {
  return meter.fixed ? rules : JSON.parse(JSON.stringify(rules));
}

function priceCart(cart) {
  let total = 0;
  const own = rulesForCart();
  for (const { article, price } of cart) {
    const best = own.reduce((most, rule) => (rule.article === article ? Math.max(most, rule.percent) : most), 0);
    total += price * (1 - best / 100);
  }
  return total;
}

const meter = new Meter('carts');
const cart = [{ article: 'a-7', price: 30 }, { article: 'a-31', price: 12 }];
meter.serve(4000, () => priceCart(cart));
