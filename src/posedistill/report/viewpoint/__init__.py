"""What a report shows of viewpoints: errors over azimuth, opposite views, maps of embeddings, best and worst cases."""
