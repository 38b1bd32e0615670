//! A Tokio server with two hundred tasks that wait for timers, channels and connections; two requests a second.

#[path = "../../planted/support/meter.rs"]
mod meter;

use std::time::{Duration, Instant};

use meter::Meter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

async fn answer(door: TcpListener) -> std::io::Result<()> {
    loop {
        let (mut guest, _) = door.accept().await?;
        tokio::spawn(async move {
            let mut text = [0; 64];
            while let Ok(got) = guest.read(&mut text).await {
                if got == 0 || guest.write_all(&text[..got]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn work(mut meter: Meter) -> std::io::Result<()> {
    let door = TcpListener::bind("127.0.0.1:0").await?;
    let address = door.local_addr()?;
    tokio::spawn(answer(door));
    let (news, _) = broadcast::channel::<u32>(8);
    for number in 0..200_u64 {
        let mut heard = news.subscribe();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    heard = heard.recv() => if heard.is_err() { break },
                    () = tokio::time::sleep(Duration::from_secs(20 + number % 20)) => {}
                }
            }
        });
    }
    let mut client = TcpStream::connect(address).await?;
    meter.ready();
    while meter.goes_on() {
        let since = Instant::now();
        client.write_all(b"ping").await?;
        let mut text = [0; 4];
        client.read_exact(&mut text).await?;
        meter.did(1, since);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    meter.report("pings");
    Ok(())
}

fn main() -> std::io::Result<()> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?.block_on(work(Meter::new()))
}
