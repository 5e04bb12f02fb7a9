//! todo
fn x(){}
