//! TODO voter
