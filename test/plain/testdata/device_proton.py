# A device by Qpid Proton, the stack under Azure's SDK for Java: with a client
# certificate, without SASL, in frames of 4096 bytes.
# Usage: device_proton.py PORT DEVICE-ID FOLDER CA-FILE
import sys
from proton import Message, SSLDomain
from proton.utils import BlockingConnection

port, device, folder, ca = sys.argv[1:]
domain = SSLDomain(SSLDomain.MODE_CLIENT)
domain.set_trusted_ca_db(ca)
domain.set_peer_authentication(SSLDomain.VERIFY_PEER)
domain.set_credentials(folder + '/chain.pem', folder + '/device.key', None)


def connect():
    return BlockingConnection('amqps://localhost:' + port, ssl_domain=domain, sasl_enabled=False, max_frame_size=4096, heartbeat=10, timeout=120)


connection = connect()
try:
    connection.create_sender('/devices/another/messages/events')
    print('another device is let in')
except Exception as e:
    print('refused:', e)
connection.close()

connection = connect()

sender = connection.create_sender('/devices/' + device + '/messages/events')
for size in 1, 5000, 100000:
    sender.send(Message(body=b'x' * size, inferred=True, id='m-%d' % size, properties={'n': size}))
print('stored')

receiver = connection.create_receiver('/devices/' + device + '/messages/devicebound', credit=3)
for settle in receiver.accept, receiver.reject, lambda: receiver.release(delivered=False), receiver.accept:
    m = receiver.receive()
    print('received', m.id, len(m.body), m.properties)
    settle()
connection.close()
