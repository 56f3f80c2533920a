//! One file per command, named as it is typed; `causes` is what `explain` and `why` share.

pub(crate) mod apply;
pub(crate) mod backup;
pub(crate) mod causes;
pub(crate) mod check;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod diff;
pub(crate) mod door;
pub(crate) mod explain;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod install;
pub(crate) mod join;
pub(crate) mod names;
pub(crate) mod proxy;
pub(crate) mod run;
pub(crate) mod split;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod support;
pub(crate) mod token;
pub(crate) mod up;
pub(crate) mod version;
pub(crate) mod why;
