module kubecache.io/image-puller/tests/cluster/tools/pause

go 1.26.0
