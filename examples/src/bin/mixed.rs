//! Plants: a small shop with a bit of every problem, for the demonstration.
//!
//! The profiler must say: on-CPU, `shop_serve_orders;shop_price_order;shop_apply_discounts` is the hot function;
//! `shop_load_cart` reads eight bytes at a time and `shop_render_page` looks for a file that does not exist, both visible
//! in the flamegraph's kernel part and in the syscall table (`openat` with ENOENT); off-CPU, `shop_update_stock` waits for
//! its lock, and the ticker sleeps.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU32;

use anyhow::{Context, Result};
use clap::Parser;
use examples::crew::Crew;
use examples::path::{shop_load_cart, shop_render_page, shop_serve_orders, shop_update_stock, shop_wait_for_next_tick};
use examples::run::{RunOptions, goes_on, parse_seconds};
use examples::truth::monotonic_ns;
use serde::Serialize;

/// A small shop with a bit of every problem.
#[derive(Parser)]
struct Options {
    #[command(flatten)]
    run: RunOptions,
    /// How long to work
    #[arg(long, default_value = "10", value_parser = parse_seconds)]
    seconds: f64,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Shop {
    orders: u64,
    small_reads: u64,
    missing_files: u64,
    lock_waits: u64,
    lock_waited_ns: u64,
    slept_ns: u64,
}

impl Shop {
    fn plus(self, other: Self) -> Self {
        Self {
            orders: self.orders + other.orders,
            small_reads: self.small_reads + other.small_reads,
            missing_files: self.missing_files + other.missing_files,
            lock_waits: self.lock_waits + other.lock_waits,
            lock_waited_ns: self.lock_waited_ns + other.lock_waited_ns,
            slept_ns: self.slept_ns + other.slept_ns,
        }
    }
}

const MILLISECOND: u64 = 1_000_000;

fn rest(shop: &mut Shop, ns: u64) {
    let begin_ns = monotonic_ns();
    shop_wait_for_next_tick(ns);
    shop.slept_ns += monotonic_ns() - begin_ns;
}

fn serve_orders() -> Shop {
    let mut shop = Shop::default();
    while goes_on() {
        shop_serve_orders(1000);
        shop.orders += 1000;
        rest(&mut shop, 10 * MILLISECOND);
    }
    shop
}

fn load_carts(storage: &File) -> Shop {
    let mut shop = Shop::default();
    while goes_on() {
        shop_load_cart(storage.as_raw_fd(), 20_000);
        shop.small_reads += 20_000;
        rest(&mut shop, 20 * MILLISECOND);
    }
    shop
}

fn render_pages() -> Shop {
    let mut shop = Shop::default();
    while goes_on() {
        shop.missing_files += shop_render_page(5_000).max(0) as u64;
        rest(&mut shop, 20 * MILLISECOND);
    }
    shop
}

fn update_stock(lock: &AtomicU32) -> Shop {
    let mut shop = Shop::default();
    while goes_on() {
        shop.lock_waited_ns += shop_update_stock(lock, MILLISECOND, &mut shop.lock_waits);
        rest(&mut shop, 3 * MILLISECOND);
    }
    shop
}

fn tick() -> Shop {
    let mut shop = Shop::default();
    while goes_on() {
        rest(&mut shop, 100 * MILLISECOND);
    }
    shop
}

fn main() -> Result<()> {
    static STOCK_LOCK: AtomicU32 = AtomicU32::new(0);
    let options = Options::parse();
    let storage = File::open("/dev/zero").context("cannot open /dev/zero")?;
    let mut crew = Crew::new(&options.run)?;
    crew.worker("orders", serve_orders)?;
    crew.worker("carts", move || load_carts(&storage))?;
    crew.worker("pages", render_pages)?;
    for index in 0..3 {
        crew.worker(&format!("stock-{index}"), || update_stock(&STOCK_LOCK))?;
    }
    crew.worker("ticker", tick)?;
    crew.measure("mixed", Some(options.seconds), |shops| shops.into_iter().fold(Shop::default(), Shop::plus))
}
