module github.com/signet-iot/signet

go 1.26
