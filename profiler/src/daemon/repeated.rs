//! Troubles that come again and again. In: each time one happens, and each time all went well. Out: whether to say so: once
//! when it begins, once when it is over.

use std::sync::{Mutex, PoisonError};

/// Kinds of trouble told apart at a time.
const MOST_KINDS: usize = 16;

/// What is known of the troubles of one thing.
#[derive(Debug, Default)]
pub struct Repeated {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    said: Vec<String>,
    times: u64,
}

impl Repeated {
    /// It happened; true if this kind of trouble has not been said since all went well.
    pub fn is_new(&self, kind: &str) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.times += 1;
        let new = state.said.len() < MOST_KINDS && !state.said.iter().any(|said| said == kind);
        if new {
            state.said.push(kind.to_owned());
        }
        new
    }

    /// All went well; how often it had not until then, if it had not.
    pub fn is_over(&self) -> Option<u64> {
        let state = std::mem::take(&mut *self.state.lock().unwrap_or_else(PoisonError::into_inner));
        (state.times > 0).then_some(state.times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_said_once_until_it_is_over() {
        let trouble = Repeated::default();
        assert_eq!(trouble.is_over(), None);
        assert_eq!(["full", "full", "read-only", "full"].map(|kind| trouble.is_new(kind)), [true, false, true, false]);
        assert_eq!(trouble.is_over(), Some(4));
        assert_eq!(trouble.is_over(), None);
        assert!(trouble.is_new("full"));
    }

    #[test]
    fn kinds_without_number_are_said_up_to_a_bound() {
        let trouble = Repeated::default();
        let said = (0..100).filter(|number| trouble.is_new(&number.to_string())).count();
        assert_eq!(said, MOST_KINDS);
    }
}
