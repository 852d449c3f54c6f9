"""PoseEstimates: the table of poses that every estimator, teacher, score and file of the project speaks."""
