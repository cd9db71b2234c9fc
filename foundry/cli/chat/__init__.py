"""`foundry chat`: one question to a served model, or a conversation on a terminal."""
