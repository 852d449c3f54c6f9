"""What is drawn into pictures: poses, cameras, points and votes."""
