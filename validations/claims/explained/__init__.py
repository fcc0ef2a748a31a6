"""The facts of delta tuning beside what the tangent model, its spectrum and the value of information said of them before."""
