//! The whole program against a real kernel and real containers: what every test needs.
