"""budsim: the serving configuration that meets the targets for the least money.

Pure numerical code: numpy, scipy, xgboost and deap; no Ray, FastAPI or SQL.
"""
