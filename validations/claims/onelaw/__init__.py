"""Whether one law, in what each delta reads and moves, says what LoRA, IA3 and adapters become."""
