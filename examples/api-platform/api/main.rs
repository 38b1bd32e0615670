//! The API of a shop: `GET /api/v1/products/N` (a page of a product and sixty offers, from the cache), `GET
//! /assets/NAME` (cacheable for a minute), `GET /healthz`. A thread a connection. Three problems, three flags:
//!
//! - one client of the cache behind one lock for everybody; `--own-clients` gives each connection its own
//! - the offers of a page are ranked by comparing each with each; `--rank-once` keeps the ranking
//! - a question to the cache for each offer; `--ask-together` sends them all at once

mod cluster;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result};
use clap::Parser;
use cluster::Cluster;

const PRODUCTS: u64 = 500;
const OFFERS: u64 = 60;

#[derive(Parser)]
struct Options {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8600")]
    listen: String,
    /// A node of the cache.
    #[arg(long, default_value = "127.0.0.1:7601")]
    cache: String,
    /// Fix of round 1.
    #[arg(long)]
    own_clients: bool,
    /// Fix of round 2.
    #[arg(long)]
    rank_once: bool,
    /// Fix of round 3.
    #[arg(long)]
    ask_together: bool,
}

struct Shop {
    options: Options,
    shared: Mutex<Cluster>,
    rankings: Mutex<HashMap<u64, u64>>,
}

/// How well two offers go together.
fn likeness(left: u64, right: u64) -> u64 {
    (0..160).fold(left.wrapping_mul(31) ^ right, |state, step| state.rotate_left(7).wrapping_mul(0x9e37_79b9) ^ step)
}

/// Compares each offer of a product with each: the score of the page.
#[inline(never)]
fn rank_offers(product: u64) -> u64 {
    let mut best = 0;
    for left in 0..OFFERS * 2 {
        for right in 0..OFFERS * 2 {
            best = best.max(likeness(product * OFFERS + left, right) % 1_000_003);
        }
    }
    best
}

fn keys(product: u64) -> Vec<String> {
    (0..OFFERS).map(|offer| format!("offer:{}", (product * 7 + offer * 13) % (PRODUCTS * 4))).collect()
}

#[inline(never)]
fn fetch_offers(cache: &mut Cluster, product: u64, together: bool) -> Result<Vec<Option<Vec<u8>>>> {
    let keys = keys(product);
    if together {
        return cache.get_all(&keys);
    }
    keys.iter().map(|key| cache.ask("GET", key, None)).collect()
}

impl Shop {
    fn score(&self, product: u64) -> u64 {
        if !self.options.rank_once {
            return rank_offers(product);
        }
        let known = self.rankings.lock().unwrap_or_else(PoisonError::into_inner).get(&product).copied();
        known.unwrap_or_else(|| {
            let score = rank_offers(product);
            self.rankings.lock().unwrap_or_else(PoisonError::into_inner).insert(product, score);
            score
        })
    }

    #[inline(never)]
    fn offers(&self, own: &mut Cluster, product: u64) -> Result<Vec<Option<Vec<u8>>>> {
        if self.options.own_clients {
            return fetch_offers(own, product, self.options.ask_together);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        fetch_offers(&mut shared, product, self.options.ask_together)
    }

    #[inline(never)]
    fn product_page(&self, own: &mut Cluster, product: u64) -> Result<String> {
        let offers = self.offers(own, product)?;
        for (key, _) in keys(product).iter().zip(&offers).filter(|(_, offer)| offer.is_none()) {
            let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
            shared.ask("SET", key, Some(&format!("{{\"key\":\"{key}\",\"cents\":{}}}", key.len() * 499)))?;
        }
        let found: Vec<String> =
            offers.into_iter().flatten().map(|offer| String::from_utf8_lossy(&offer).into_owned()).collect();
        Ok(format!("{{\"product\":{product},\"score\":{},\"offers\":[{}]}}", self.score(product), found.join(",")))
    }

    fn respond(&self, own: &mut Cluster, path: &str) -> (u16, &'static str, String) {
        if path == "/healthz" {
            return (200, "no-store", "ok\n".into());
        }
        if let Some(name) = path.strip_prefix("/assets/") {
            return (200, "public, max-age=60", name.repeat(200));
        }
        let product = path.strip_prefix("/api/v1/products/").and_then(|number| number.parse::<u64>().ok());
        match product.filter(|product| *product < PRODUCTS).map(|product| self.product_page(own, product)) {
            Some(Ok(page)) => (200, "no-store", page),
            Some(Err(error)) => {
                // What was asked before and not answered would be taken for the next answer.
                *own = Cluster::new(&self.options.cache);
                (502, "no-store", format!("{error:#}\n"))
            }
            None => (404, "no-store", "no such page\n".into()),
        }
    }

    fn serve(&self, stream: TcpStream) -> Result<()> {
        stream.set_nodelay(true)?;
        let mut out = stream.try_clone()?;
        let mut lines = BufReader::new(stream).lines();
        let mut own = Cluster::new(&self.options.cache);
        while let Some(request) = lines.next().transpose()? {
            let path = request.split(' ').nth(1).unwrap_or("/").to_owned();
            let mut close = request.ends_with("HTTP/1.0");
            while let Some(header) = lines.next().transpose()?.filter(|header| !header.is_empty()) {
                close |= header.eq_ignore_ascii_case("connection: close");
            }
            let (status, caching, body) = self.respond(&mut own, &path);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} .\r\nCache-Control: {caching}\r\nContent-Length: {length}\r\n\r\n");
            out.write_all((head + &body).as_bytes())?;
            if close {
                break;
            }
        }
        Ok(())
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let door = TcpListener::bind(&options.listen).with_context(|| format!("cannot listen at {}", options.listen))?;
    let shared = Mutex::new(Cluster::new(&options.cache));
    let shop = Shop { options, shared, rankings: Mutex::default() };
    thread::scope(|scope| {
        for guest in door.incoming().flatten() {
            let shop = &shop;
            // A guest that hangs up in the middle of a request is no news.
            scope.spawn(move || shop.serve(guest).ok());
        }
    });
    Ok(())
}
