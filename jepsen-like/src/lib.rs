//! Fault injection for Message Hub: real processes, real faults, histories judged by checkers.
