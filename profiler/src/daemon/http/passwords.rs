//! Verifies passwords. In: attempts. Out: whether they are right, in a fair order, on few threads.
//!
//! A hash of bcrypt costs a quarter of a second of CPU on purpose, so that whoever guesses has others wait. Therefore:
//! - Credentials that were right are remembered, under a digest with a key of this process, and never wait. The digest covers
//!   the hash: a new configuration changes nothing for users whose hash stays.
//! - Networks, and users within each, take turns. Among attempts of the same user from the same network the newest two take
//!   turns: a guesser's next attempt comes after the answer to the last one, so that somebody who comes once is among the
//!   newest, while in order of arrival they would wait behind every connection that guesses.
//! - A wrong attempt costs the same for every user, known or not.

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

/// Attempts that may wait. Connections are fewer than that.
const WAITING: usize = 256;

/// How long an attempt may wait.
const PATIENCE: Duration = Duration::from_mins(1);

/// Credentials remembered as right, and as wrong.
const RIGHT: usize = 128;
const WRONG: usize = 1024;

/// Users of networks of which it is remembered when it was their turn.
const TURNS: usize = 1024;

/// Among so many of the newest attempts of a user one is chosen.
const NEWEST: usize = 2;

/// Threads that verify, of the CPUs that there are: half of them, so that guessing leaves some to everything else.
const MOST_THREADS: usize = 4;

/// The least that a hash of bcrypt may cost.
const LEAST_COST: u32 = 4;

/// Nobody's salt and hash, after the cost.
const NOBODY: &str = "C6UzMDM.H6dfI/f/IKcEeO7ZDpP9bFwJDGmOe1hVnqNlEHfJqKXSW";

type Key = [u8; 32];

/// Whose turn it is: a network and a known user of it. All unknown users are one.
type Owner = (IpAddr, Option<String>);

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub struct TooMany;

/// One attempt.
#[derive(Clone)]
pub struct Attempt {
    user: String,
    password: String,
    /// Of the user, if there is one.
    hash: Option<String>,
    /// What the most expensive hash of any user costs.
    most_cost: u32,
}

/// The cost of a hash, as an exponent.
pub fn cost(hash: &str) -> Option<u32> {
    hash.split('$').nth(2)?.parse().ok()
}

impl Attempt {
    /// Of these credentials; `hash` is that of the user, if there is one.
    pub fn new(user: String, password: String, hash: Option<String>, most_cost: u32) -> Self {
        Self { user, password, hash, most_cost }
    }

    fn verify(&self) -> bool {
        let right = self.hash.as_ref().is_some_and(|hash| bcrypt::verify(&self.password, hash).unwrap_or(false));
        if !right {
            for cost in self.padding() {
                // What comes of it does not matter, only that it takes as long.
                drop(bcrypt::verify(&self.password, &format!("$2b${cost:02}${NOBODY}")));
            }
        }
        right
    }

    /// Costs of what else is computed after a wrong password, so that all of it together takes as long as the most expensive
    /// hash: a hash of cost c takes 2^c rounds, and 2^c + 2^c + 2^(c+1) + … + 2^(m-1) = 2^m.
    fn padding(&self) -> Vec<u32> {
        match self.hash.as_deref().and_then(cost) {
            Some(cost) => (cost..self.most_cost).collect(),
            None => vec![self.most_cost.max(LEAST_COST)],
        }
    }
}

struct Waiting {
    key: Key,
    owner: Owner,
    attempt: Attempt,
    /// Who asks: several, if they have the same credentials.
    askers: Vec<oneshot::Sender<bool>>,
}

impl Waiting {
    fn is_wanted(&self) -> bool {
        self.askers.iter().any(|asker| !asker.is_closed())
    }
}

#[derive(Default)]
struct State {
    right: VecDeque<Key>,
    wrong: VecDeque<Key>,
    /// Oldest first.
    waiting: Vec<Waiting>,
    threads: usize,
    /// Attempts taken up so far.
    turn: u64,
    /// When it was last whose turn.
    turns: HashMap<Owner, u64>,
}

/// All attempts.
pub struct Passwords {
    state: Mutex<State>,
    most_threads: usize,
    digest_key: [u8; 32],
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    /// None yet.
    pub fn new() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut digest_key = [0; 32];
        // Without randomness the digests are still digests.
        drop(rustls::crypto::ring::default_provider().secure_random.fill(&mut digest_key));
        Self { state: Mutex::default(), most_threads: (cpus / 2).clamp(1, MOST_THREADS), digest_key }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, attempt: &Attempt) -> Key {
        let mut digest = Sha256::new().chain_update(self.digest_key);
        for part in [attempt.hash.as_deref().unwrap_or_default(), &attempt.user, &attempt.password] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }

    /// What is known without computing anything.
    pub fn remembered(&self, attempt: &Attempt) -> Option<bool> {
        self.state().remembered(&self.key(attempt))
    }

    /// Whether the password is right.
    pub async fn verify(self: &Arc<Self>, peer: IpAddr, attempt: Attempt) -> Result<bool, TooMany> {
        let key = self.key(&attempt);
        let (asker, answer) = oneshot::channel();
        {
            let mut state = self.state();
            if let Some(known) = state.remembered(&key) {
                return Ok(known);
            }
            let owner = (peer, attempt.hash.as_ref().map(|_| attempt.user.clone()));
            state.push(Waiting { key, owner, attempt, askers: vec![asker] })?;
            if state.threads < self.most_threads {
                state.threads += 1;
                let passwords = Arc::clone(self);
                tokio::task::spawn_blocking(move || passwords.work());
            }
        }
        match tokio::time::timeout(PATIENCE, answer).await {
            Ok(Ok(right)) => Ok(right),
            _ => Err(TooMany),
        }
    }

    /// Verifies until nothing waits.
    fn work(&self) {
        loop {
            let (next, known) = {
                let mut state = self.state();
                let Some(next) = state.pick() else {
                    state.threads -= 1;
                    return;
                };
                let known = state.remembered(&next.key);
                (next, known)
            };
            let right = known.unwrap_or_else(|| next.attempt.verify());
            if known.is_none() {
                self.state().remember(next.key, right);
            }
            for asker in next.askers {
                // Who is gone needs no answer.
                asker.send(right).ok();
            }
        }
    }
}

impl State {
    fn remembered(&self, key: &Key) -> Option<bool> {
        if self.right.contains(key) {
            return Some(true);
        }
        self.wrong.contains(key).then_some(false)
    }

    fn remember(&mut self, key: Key, right: bool) {
        let (known, most) = if right { (&mut self.right, RIGHT) } else { (&mut self.wrong, WRONG) };
        if known.len() >= most {
            known.pop_front();
        }
        known.push_back(key);
    }

    /// Adds an attempt as the newest, together with those of the same credentials that wait already.
    fn push(&mut self, mut newest: Waiting) -> Result<(), TooMany> {
        self.waiting.retain(Waiting::is_wanted);
        if let Some(at) = self.waiting.iter().position(|one| one.key == newest.key && one.owner == newest.owner) {
            newest.askers.append(&mut self.waiting.remove(at).askers);
        } else if self.waiting.len() >= WAITING {
            return Err(TooMany);
        }
        self.waiting.push(newest);
        Ok(())
    }

    /// Takes the attempt whose turn it is.
    fn pick(&mut self) -> Option<Waiting> {
        self.waiting.retain(Waiting::is_wanted);
        let last = |owner: &Owner| self.turns.get(owner).copied().unwrap_or(0);
        let last_of_peer = |peer: IpAddr| {
            self.turns.iter().filter(|((known, _), _)| *known == peer).map(|(_, turn)| *turn).max().unwrap_or(0)
        };
        let owners = self.waiting.iter().map(|one| &one.owner);
        let owner = owners.min_by_key(|owner| (last_of_peer(owner.0), last(owner)))?.clone();
        let newest_first = self.waiting.iter().enumerate().rev().filter(|(_, one)| one.owner == owner);
        let newest: Vec<usize> = newest_first.map(|(at, _)| at).take(NEWEST).collect();
        let chosen = *newest.get(self.turn as usize % newest.len().max(1))?;
        self.turn += 1;
        if self.turns.len() >= TURNS {
            let oldest = self.turns.iter().min_by_key(|(_, turn)| **turn).map(|(owner, _)| owner.clone());
            oldest.map(|oldest| self.turns.remove(&oldest));
        }
        self.turns.insert(owner, self.turn);
        Some(self.waiting.remove(chosen))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn hash(password: &str, cost: u32) -> String {
        bcrypt::hash(password, cost).unwrap_or_else(|error| panic!("{error}"))
    }

    fn waiting(number: u8, peer: IpAddr, user: Option<&str>) -> (Waiting, oneshot::Receiver<bool>) {
        let (asker, answer) = oneshot::channel();
        let attempt = Attempt::new(String::new(), String::new(), None, LEAST_COST);
        let owner = (peer, user.map(ToOwned::to_owned));
        (Waiting { key: [number; 32], owner, attempt, askers: vec![asker] }, answer)
    }

    #[test]
    fn a_wrong_attempt_costs_the_same_whoever_the_user_is() {
        let hashes = [4, 6, 9].map(|cost| format!("$2y${cost:02}${NOBODY}"));
        for hash in hashes.into_iter().map(Some).chain([None]) {
            let attempt = Attempt::new("a".to_owned(), "b".to_owned(), hash.clone(), 9);
            let first = hash.as_deref().and_then(cost).map_or(0, |cost| 1_u64 << cost);
            let rounds = first + attempt.padding().into_iter().map(|cost| 1_u64 << cost).sum::<u64>();
            assert_eq!(rounds, 1 << 9, "{hash:?}");
        }
    }

    #[test]
    fn the_hash_of_nobody_can_be_verified_at_every_cost() {
        for cost in [4, 5] {
            assert!(bcrypt::verify("anything", &format!("$2b${cost:02}${NOBODY}")).is_ok_and(|right| !right));
        }
    }

    #[test]
    fn whoever_comes_once_is_verified_soon_though_a_hundred_guess_the_same_user() {
        for arrives_after in 0..8 {
            let mut state = State::default();
            let mut answers = Vec::new();
            let mut push = |state: &mut State, number| {
                let (one, answer) = waiting(number, HERE, Some("alice"));
                answers.push(answer);
                assert!(state.push(one).is_ok());
            };
            (0..100).for_each(|number| push(&mut state, number));
            let mut found = None;
            for pick in 0..200_u32 {
                if pick == arrives_after {
                    push(&mut state, 255);
                }
                let picked = state.pick().map(|one| one.key[0]);
                if picked == Some(255) {
                    found = Some(pick - arrives_after);
                    break;
                }
                // The one that was answered guesses again.
                push(&mut state, 100 + (pick % 100) as u8);
            }
            assert!(found.is_some_and(|picks| picks <= 3), "{found:?}");
        }
    }

    #[test]
    fn networks_and_users_take_turns() {
        let mut state = State::default();
        let mut answers = Vec::new();
        for number in 0..50 {
            let user = if number % 2 == 0 { Some("alice") } else { None };
            let (one, answer) = waiting(number, THERE, user);
            answers.push(answer);
            assert!(state.push(one).is_ok());
        }
        assert!(state.pick().is_some());
        let (here, answer) = waiting(200, HERE, Some("alice"));
        let (bob, other_answer) = waiting(201, THERE, Some("bob"));
        answers.extend([answer, other_answer]);
        assert!(state.push(here).is_ok() && state.push(bob).is_ok());
        let picked: Vec<u8> = (0..4).filter_map(|_| state.pick()).map(|one| one.key[0]).collect();
        assert_eq!(picked[0], 200, "the other network goes first");
        assert!(picked.contains(&201), "{picked:?}");
    }

    #[test]
    fn whoever_is_gone_takes_no_turn_and_the_queue_has_an_end() {
        let mut state = State::default();
        let (one, answer) = waiting(1, HERE, None);
        assert!(state.push(one).is_ok());
        drop(answer);
        assert!(state.pick().is_none());
        let mut answers = Vec::new();
        for number in 0..=WAITING {
            let (mut one, answer) = waiting(0, HERE, None);
            one.key[..8].copy_from_slice(&number.to_le_bytes());
            assert_eq!(state.push(one).is_ok(), number < WAITING);
            answers.push(answer);
        }
    }

    #[tokio::test]
    async fn what_was_verified_is_remembered_for_as_long_as_the_hash_stays() {
        let passwords = Arc::new(Passwords::new());
        let known = hash("secret", LEAST_COST);
        let attempt = |password: &str, hash: &str| {
            Attempt::new("alice".to_owned(), password.to_owned(), Some(hash.to_owned()), LEAST_COST)
        };
        assert_eq!(passwords.remembered(&attempt("secret", &known)), None);
        assert_eq!(passwords.verify(HERE, attempt("secret", &known)).await, Ok(true));
        assert_eq!(passwords.verify(HERE, attempt("Secret", &known)).await, Ok(false));
        assert_eq!(passwords.remembered(&attempt("secret", &known)), Some(true));
        assert_eq!(passwords.remembered(&attempt("Secret", &known)), Some(false));
        assert_eq!(passwords.remembered(&attempt("secret", &hash("other", LEAST_COST))), None);
    }

    #[tokio::test]
    async fn those_with_the_same_credentials_wait_for_one_verification() {
        let passwords = Arc::new(Passwords::new());
        let attempt = Attempt::new("a".to_owned(), "b".to_owned(), Some(hash("b", LEAST_COST)), LEAST_COST);
        // No thread begins before all are there.
        passwords.state().threads = passwords.most_threads;
        let asking: Vec<_> = (0..5)
            .map(|_| {
                let (passwords, attempt) = (Arc::clone(&passwords), attempt.clone());
                tokio::spawn(async move { passwords.verify(HERE, attempt).await })
            })
            .collect();
        while passwords.state().waiting.first().is_none_or(|one| one.askers.len() < 5) {
            tokio::task::yield_now().await;
        }
        assert_eq!(passwords.state().waiting.len(), 1);
        passwords.work();
        for one in asking {
            assert!(one.await.is_ok_and(|right| right == Ok(true)));
        }
        assert_eq!(passwords.state().turn, 1);
    }
}
