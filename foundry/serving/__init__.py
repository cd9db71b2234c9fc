"""What is served: endpoints, the recommendations behind them, the engines that answer."""
