"""A gRPC server for the examples: says what it was told; SayHellos says it three times, a second apart.

pip install grpcio; python3 server.py
"""
import time
from concurrent import futures

import grpc


def many(message, _context):
    for _ in range(3):
        yield message
        time.sleep(1)


class Greeter(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == "/helloworld.Greeter/SayHello":
            return grpc.unary_unary_rpc_method_handler(lambda message, _context: message)
        if details.method == "/helloworld.Greeter/SayHellos":
            return grpc.unary_stream_rpc_method_handler(many)


server = grpc.server(futures.ThreadPoolExecutor(4))
server.add_generic_rpc_handlers((Greeter(),))
server.add_insecure_port("127.0.0.1:50051")
server.start()
server.wait_for_termination()
