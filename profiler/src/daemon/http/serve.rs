//! Connections, within limits: so many at a time, so long for a handshake, a request's head and a client that does not read.
//! In: a socket. Out: requests to the routes.

use std::{
    future::Future as _,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context as Wakeup, Poll},
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::Context;

/// Connections at a time.
const CONNECTIONS: usize = 128;

/// For a TLS handshake, and for the head of a request, the first byte as well as all of it.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);

/// For a client to take any of what is written to it.
const STALLED: Duration = Duration::from_secs(30);

/// Largest head of a request.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;

/// For requests under way when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Serves until told to end, then finishes what is under way.
pub async fn serve(listener: TcpListener, router: Router, context: Arc<Context>) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.shared.ended() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: closing connections make room.
                tracing::warn!("a connection cannot be accepted: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            context.shared.requests_refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        let tls = context.gate.config().tls.clone();
        let service = TowerToHyperService::new(router.clone());
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let _permit = permit;
            let Some(stream) = opened(stream, tls).await else { return };
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEADERS)
                .serve_connection(TokioIo::new(Patient::new(stream)), service);
            if let Err(error) = watcher.watch(connection).await {
                tracing::debug!("a connection ended early: {error}");
            }
        });
    }
    drop(listener);
    if timeout(LAST_ANSWERS, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that were still under way are cut off");
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

async fn opened(stream: TcpStream, tls: Option<Arc<rustls::ServerConfig>>) -> Option<Box<dyn Stream>> {
    // Without it answers are delayed, with it nothing else changes.
    stream.set_nodelay(true).ok();
    let Some(config) = tls else { return Some(Box::new(stream)) };
    match timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!("a TLS handshake failed: {error}");
            None
        }
        Err(_) => None,
    }
}

/// A stream that fails where the other side takes nothing for too long.
struct Patient {
    stream: Box<dyn Stream>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: Box<dyn Stream>) -> Self {
        Self { stream, stalled: None }
    }

    /// Passes on what writing said, and gives up once it has said nothing for too long.
    fn judge<T>(&mut self, wakeup: &mut Wakeup<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + STALLED)));
        match stalled.as_mut().poll(wakeup) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, wakeup: &mut Wakeup<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(wakeup, into)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, wakeup: &mut Wakeup<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(wakeup, bytes);
        self.judge(wakeup, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, wakeup: &mut Wakeup<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(wakeup);
        self.judge(wakeup, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, wakeup: &mut Wakeup<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(wakeup);
        self.judge(wakeup, shut)
    }
}
