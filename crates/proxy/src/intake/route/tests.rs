//! Routes as received against routes as understood.
