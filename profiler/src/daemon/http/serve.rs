//! Connections, within limits: so many at a time, so long for a handshake, a request's head and a client that does not read.
//! In: a socket. Out: requests to the routes.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context as Wakeup, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    time::{Instant, Sleep, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    Context,
    refusals::Reason,
    seats::{Kind, Occupied, Seat, Seats, peer},
};

/// For a TLS handshake, and for the head of a request, the first byte as well as all of it.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);

/// For the head of a request on a connection that is kept for probes and scrapes.
const RESERVED_HEAD: Duration = Duration::from_secs(5);

/// For a client to take any of what is written to it.
const STALLED: Duration = Duration::from_secs(30);

/// Largest head of a request.
const HEAD_BYTES: usize = 16 << 10;
const HEADERS: usize = 64;

/// For requests under way when the daemon ends.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// Serves until told to end, then finishes what is under way.
pub async fn serve(listener: TcpListener, router: Router, context: Arc<Context>) {
    let seats = Arc::new(Seats::default());
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.shared.ended() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: closing connections make room.
                tracing::warn!("a connection cannot be accepted: {error}");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(occupied) = seats.admit(peer(address.ip())) else {
            context.shared.refusals.count(Reason::Connections);
            continue;
        };
        if occupied.by_eviction {
            context.shared.refusals.count(Reason::Evicted);
        }
        let tls = context.gate.config().tls.clone();
        let router = TowerToHyperService::new(router.clone());
        tokio::spawn(attend(stream, tls, occupied, router, graceful.watcher()));
    }
    drop(listener);
    if timeout(LAST_ANSWERS, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests that were still under way are cut off");
    }
}

/// Serves one connection until it ends or another one needs its seat.
async fn attend(
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    occupied: Occupied,
    router: TowerToHyperService<Router>,
    watcher: Watcher,
) {
    let seat = Arc::clone(&occupied.seat);
    let served = async {
        let Some(stream) = opened(stream, tls).await else { return };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(if seat.kind == Kind::Reserved { RESERVED_HEAD } else { HEAD })
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(
                TokioIo::new(Patient::new(stream, Arc::clone(&seat))),
                Seated { router, seat: Arc::clone(&seat) },
            );
        if let Err(error) = watcher.watch(connection).await {
            tracing::debug!("a connection ended early: {error}");
        }
    };
    tokio::select! {
        () = served => {}
        () = seat.evicted.notified() => tracing::debug!("an idle connection of {} makes room", seat.peer),
    }
    drop(occupied);
}

/// The routes, told on whose connection a request came.
struct Seated {
    router: TowerToHyperService<Router>,
    seat: Arc<Seat>,
}

impl Service<Request<Incoming>> for Seated {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        let under_way = self.seat.begin();
        request.extensions_mut().insert(Arc::clone(&self.seat));
        let answer = self.router.call(request);
        Box::pin(async move {
            let answer = answer.await;
            drop(under_way);
            answer
        })
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
    seat: Arc<Seat>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: Box<dyn Stream>, seat: Arc<Seat>) -> Self {
        Self { stream, seat, stalled: None }
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
        if matches!(written, Poll::Ready(Ok(_))) {
            self.seat.touch();
        }
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
