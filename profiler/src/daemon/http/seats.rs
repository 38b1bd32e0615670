//! Who may hold a connection. In: the peers of connections as they come and go. Out: a seat for each, or none.
//!
//! General seats answer everything. Once they are taken, the longest idle one makes room; where all are busy, a newcomer gets a
//! reserved seat, which answers probes and scrapes only. Probes therefore always find a seat, whoever holds the others, also
//! where they come from the same address: everybody on this host is one peer, and so is everybody behind a proxy.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tokio::sync::Notify;

/// Connections that answer everything.
pub const GENERAL: usize = 128;

/// How many of them one peer may hold.
pub const BY_ONE_PEER: usize = 96;

/// Connections that answer probes and scrapes.
pub const RESERVED: usize = 32;

/// What a connection may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Everything.
    General,
    /// Probes and scrapes.
    Reserved,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No complete request has come, or the last one is answered.
    Idle,
    /// A password is waiting to be verified.
    Unverified,
    /// A request is under way.
    Busy,
}

/// A connection's seat.
#[derive(Debug)]
pub struct Seat {
    /// What it may ask for.
    pub kind: Kind,
    /// Whose it is.
    pub peer: IpAddr,
    /// Told when another connection needs the seat.
    pub evicted: Notify,
    state: Mutex<(Phase, Instant)>,
}

/// All seats that are taken, by number.
#[derive(Debug, Default)]
pub struct Seats(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: BTreeMap<u64, Arc<Seat>>,
}

/// A seat that is given back when dropped.
#[derive(Debug)]
pub struct Occupied {
    seats: Arc<Seats>,
    number: u64,
    /// The seat.
    pub seat: Arc<Seat>,
    /// Whether another connection had to leave.
    pub by_eviction: bool,
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.seats.taken().seats.remove(&self.number);
    }
}

/// The network that one client is taken to have: an address of IPv4, or what a host of IPv6 is usually given.
pub fn peer(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(if six.is_loopback() { six } else { Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0) })
        }
        four @ IpAddr::V4(_) => four,
    }
}

impl Seat {
    fn new(kind: Kind, peer: IpAddr) -> Self {
        Self { kind, peer, evicted: Notify::new(), state: Mutex::new((Phase::Idle, Instant::now())) }
    }

    fn set(&self, phase: Phase) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = (phase, Instant::now());
    }

    /// A request has come; it is answered once the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> During {
        self.during(Phase::Busy, Phase::Idle)
    }

    /// Its password waits to be verified until the guard is dropped.
    pub fn unverified(self: &Arc<Self>) -> During {
        self.during(Phase::Unverified, Phase::Busy)
    }

    fn during(self: &Arc<Self>, phase: Phase, after: Phase) -> During {
        self.set(phase);
        During { seat: Arc::clone(self), after }
    }

    /// The client has taken something of an answer.
    pub fn touch(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).1 = Instant::now();
    }

    fn since(&self, phase: Phase) -> Option<Instant> {
        let (now, since) = *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (now == phase).then_some(since)
    }
}

/// A stretch of a connection's life.
#[derive(Debug)]
pub struct During {
    seat: Arc<Seat>,
    after: Phase,
}

impl Drop for During {
    fn drop(&mut self) {
        self.seat.set(self.after);
    }
}

impl Seats {
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A seat for a newcomer; none if every connection is busy.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<Occupied> {
        let mut taken = self.taken();
        let general = |seat: &Seat| seat.kind == Kind::General;
        let reserved = |seat: &Seat| seat.kind == Kind::Reserved;
        let mut by_eviction = true;
        let kind = if taken.count(|seat| general(seat) && seat.peer == peer) >= BY_ONE_PEER {
            taken.evict(Phase::Idle, |seat| general(seat) && seat.peer == peer).then_some(Kind::General)
        } else if taken.count(general) < GENERAL {
            by_eviction = false;
            Some(Kind::General)
        } else {
            // The peer that idles on the most connections leaves first, so that one cannot push out the others.
            let idlest = taken.idlest_peer();
            taken.evict(Phase::Idle, |seat| general(seat) && Some(seat.peer) == idlest).then_some(Kind::General)
        };
        let kind = kind.or_else(|| {
            if taken.count(reserved) < RESERVED {
                by_eviction = false;
                return Some(Kind::Reserved);
            }
            // Whoever has not shown a password yet comes last.
            let left = taken.evict(Phase::Idle, reserved) || taken.evict(Phase::Unverified, reserved);
            left.then_some(Kind::Reserved)
        })?;
        let (number, seat) = (taken.next, Arc::new(Seat::new(kind, peer)));
        taken.next += 1;
        taken.seats.insert(number, Arc::clone(&seat));
        Some(Occupied { seats: Arc::clone(self), number, seat, by_eviction })
    }
}

impl Taken {
    fn count(&self, which: impl Fn(&Seat) -> bool) -> usize {
        self.seats.values().filter(|seat| which(seat)).count()
    }

    fn idlest_peer(&self) -> Option<IpAddr> {
        let mut idle: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for seat in self.seats.values().filter(|seat| seat.kind == Kind::General && seat.since(Phase::Idle).is_some()) {
            *idle.entry(seat.peer).or_default() += 1;
        }
        idle.into_iter().max_by_key(|(_, idle)| *idle).map(|(peer, _)| peer)
    }

    /// Ends the connection that has been longest in this phase.
    fn evict(&mut self, phase: Phase, which: impl Fn(&Seat) -> bool) -> bool {
        let candidates = self.seats.iter().filter(|(_, seat)| which(seat));
        let longest = candidates
            .filter_map(|(number, seat)| seat.since(phase).map(|since| (since, *number)))
            .min()
            .and_then(|(_, number)| self.seats.remove(&number));
        longest.inspect(|seat| seat.evicted.notify_one()).is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn other(number: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 0, 0, number))
    }

    fn admitted(seats: &Arc<Seats>, peer: IpAddr) -> Occupied {
        seats.admit(peer).unwrap_or_else(|| panic!("no seat"))
    }

    /// Seats of several peers, all with a request under way.
    fn busy(seats: &Arc<Seats>, connections: usize) -> Vec<(Occupied, During)> {
        let all = (0..connections).map(|number| admitted(seats, other((number / BY_ONE_PEER) as u8)));
        all.map(|occupied| (occupied.seat.begin(), occupied)).map(|(during, occupied)| (occupied, during)).collect()
    }

    async fn is_evicted(seat: &Seat) -> bool {
        let told = seat.evicted.notified();
        tokio::time::timeout(std::time::Duration::ZERO, told).await.is_ok()
    }

    #[tokio::test]
    async fn the_longest_idle_connection_makes_room_for_a_new_one() {
        let seats = Arc::new(Seats::default());
        let mut idle: Vec<_> = (0..BY_ONE_PEER).map(|_| admitted(&seats, HERE)).collect();
        let during = idle[0].seat.begin();
        let newcomer = admitted(&seats, HERE);
        assert_eq!(newcomer.seat.kind, Kind::General);
        assert!(newcomer.by_eviction && is_evicted(&idle[1].seat).await);
        assert!(!is_evicted(&idle[0].seat).await && !is_evicted(&idle[2].seat).await, "one alone had to leave");
        // Whoever was answered last is the last to leave.
        drop(during);
        let next = admitted(&seats, HERE);
        assert!(is_evicted(&idle[2].seat).await && !is_evicted(&idle[0].seat).await);
        drop((newcomer, next));
        idle.clear();
        assert!(seats.taken().seats.is_empty());
    }

    #[test]
    fn where_all_are_busy_probes_find_a_reserved_seat_whoever_they_are() {
        let seats = Arc::new(Seats::default());
        let held = busy(&seats, GENERAL);
        assert!(held.iter().all(|(occupied, _)| occupied.seat.kind == Kind::General));
        for peer in [other(0), other(200), HERE] {
            assert_eq!(admitted(&seats, peer).seat.kind, Kind::Reserved);
        }
        // Reserved ones that say nothing make room too, and so do those that guess.
        let idle: Vec<_> = (0..RESERVED).map(|_| admitted(&seats, HERE)).collect();
        assert!(admitted(&seats, HERE).by_eviction);
        let idle_too = admitted(&seats, HERE);
        let guessing: Vec<_> = idle.iter().map(|occupied| occupied.seat.unverified()).collect();
        let during = idle_too.seat.begin();
        assert_eq!(admitted(&seats, HERE).seat.kind, Kind::Reserved);
        drop((guessing, during));
    }

    #[test]
    fn where_everybody_is_busy_nobody_is_thrown_out() {
        let seats = Arc::new(Seats::default());
        let _held = busy(&seats, GENERAL + RESERVED);
        assert!(seats.admit(HERE).is_none());
    }

    #[tokio::test]
    async fn one_peer_cannot_take_every_general_seat_nor_push_others_out() {
        let seats = Arc::new(Seats::default());
        let quiet = admitted(&seats, HERE);
        let one: Vec<_> =
            (0..BY_ONE_PEER).map(|_| admitted(&seats, other(1))).map(|it| (it.seat.begin(), it)).collect();
        assert_eq!(admitted(&seats, other(1)).seat.kind, Kind::Reserved);
        assert_eq!(admitted(&seats, other(2)).seat.kind, Kind::General);
        drop(one);
        let _idle: Vec<_> = (0..BY_ONE_PEER).map(|_| admitted(&seats, other(1))).collect();
        let _more: Vec<_> = (0..GENERAL).map(|number| admitted(&seats, other(100 + (number % 50) as u8))).collect();
        assert!(!is_evicted(&quiet.seat).await, "the one that idles on the most connections leaves first");
    }

    #[test]
    fn a_host_of_ipv6_is_one_peer_with_all_its_addresses() {
        let peer_of = |text: &str| text.parse().map(peer).ok();
        assert_eq!(peer_of("2001:db8::1"), peer_of("2001:db8::ffff:1"));
        assert_ne!(peer_of("2001:db8::1"), peer_of("2001:db8:0:1::1"));
        assert_eq!(peer_of("::ffff:127.0.0.1"), peer_of("127.0.0.1"));
        assert_ne!(peer_of("::1"), peer_of("::2"));
    }
}
